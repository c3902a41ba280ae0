"""The pages as a reader meets them: in headless Chromium, at two widths and in both themes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from outcrop import cli
from outcrop.dashboard.opened import OpenedRun
from outcrop.dashboard.server import application

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def address(finished: Path) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(application([OpenedRun(finished)]), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=["phone, dark", "desk, light"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """Whatever the browser complains of is a failure."""
    narrow = request.param.startswith("phone")
    size = {"width": 390, "height": 844} if narrow else {"width": 1400, "height": 900}
    page = browser.new_page(viewport=size, color_scheme="dark" if narrow else "light")
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda failed: complaints.append(failed.url))
    yield page
    page.close()
    assert complaints == []


def fits(page: Page) -> bool:
    """Whether nothing but what scrolls by itself is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_reader_goes_from_the_run_to_a_latent_and_on(page: Page, address: str) -> None:
    page.goto(address)
    assert page.url == f"{address}/0/" and page.locator("svg.ledger-bar").count() == 1 and fits(page)
    page.click("nav >> text=Latents")
    assert page.locator("table.latents tbody tr").count() == 100 and fits(page)
    page.click("tbody th a >> nth=0")
    assert "/latent/" in page.url and page.locator(".tokens").count() > 0 and fits(page)
    first = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != first)
    page.keyboard.press("k")
    page.wait_for_url(first)


def test_a_table_is_searched_filtered_and_sorted(page: Page, address: str) -> None:
    page.goto(f"{address}/0/latents")
    page.click("thead >> text=fires on")
    assert "sort=firing_rate" in page.url
    assert page.locator('th[aria-sort="descending"]').inner_text().startswith("fires on")
    page.click("thead >> text=fires on")
    assert page.locator('th[aria-sort="ascending"]').count() == 1
    page.click("summary >> text=Filters")
    page.check('input[value="not selected"]')
    page.click("button >> text=Show")
    statuses = page.locator("table.latents tbody td:nth-child(5)").all_inner_texts()
    assert statuses and all(status.startswith("not selected") for status in statuses)
    page.fill('input[name="words"]', "no explanation says this")
    page.press('input[name="words"]', "Enter")
    assert page.locator("table.latents tbody tr").count() == 0
    assert "0 of" in page.inner_text('[role="status"]')


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("pages") / "run"))
    assert cli.main(["report", str(run), "--html"]) == 0
    return run / "report" / "html"


def test_pages_in_a_folder_are_read_without_a_server(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    assert page.locator("svg.ledger-bar").count() == 1 and fits(page)
    page.click("nav >> text=Latents")
    rows = page.locator("table.latents tbody tr")
    rows.nth(99).wait_for()
    assert rows.count() == 100 and fits(page)
    page.click("thead >> text=fires on")
    shown = rows.locator("td:nth-child(6)").all_inner_texts()
    one_in = [int(rate.split()[-1].replace(",", "")) for rate in shown if rate.startswith("1 in")]
    assert one_in == sorted(one_in) and len(one_in) > 1
    page.click("text=further →")
    assert "page 2 of" in page.inner_text(".pages")
    page.check('input[value="scored"]')
    statuses = rows.locator("td:nth-child(5)").all_inner_texts()
    assert statuses and set(statuses) == {"scored"}
    page.fill('input[name="words"]', "no explanation says this")
    assert rows.count() == 0 and "0 of" in page.inner_text('[role="status"]')
    page.fill('input[name="words"]', "")
    page.click("tbody th a >> nth=0")
    assert page.locator(".card").count() > 0 and page.locator(".tokens").count() > 0 and fits(page)
    first = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != first)
    assert page.locator("h1").count() == 1


def test_the_window_is_filled_before_it_is_scrolled(page: Page, address: str) -> None:
    """No layout shift: what stands there stays where it is."""
    page.goto(f"{address}/0/latents")
    shift = page.evaluate(
        "new Promise(done => { let sum = 0;"
        "new PerformanceObserver(list => { for (const e of list.getEntries()) sum += e.value; })"
        ".observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 500); })"
    )
    assert shift < 0.01
