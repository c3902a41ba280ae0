"""The pages as a reader meets them: in headless Chromium, at two widths and in both themes."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from outcrop import cli
from outcrop.dashboard.export import export
from outcrop.dashboard.opened import OpenedRun
from outcrop.dashboard.server import application
from outcrop.progress import silent
from outcrop.run import RunDirectory

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")


CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8").partition("\n")[2]
WIDTHS = {"phone": (390, 844), "desk": (1400, 900)}
VIEWS = (
    "",
    "sort=firing_rate",
    "sort=firing_rate&ascending=1&page=2",
    "sort=firing_rate&ascending=0",
    "sort=latent&status=not+selected&status=rare",
    "explained_by=bands+low&sort=auroc&least=0.4",
    "status=scored&layer=1",
    "flag=dense&sort=max_activation",
    "least_rate=0.01&most_rate=0.2&sort=context_rate",
    "words=A",
    "words=12&sort=latent",
    "size=20&page=2&sort=latent",
    "size=&page=&sort=&explained_by=contrastive&coder=",
    "layer=0&layer=1&sort=firing_rate&sort=latent",
    "prefix=0&ascending=1",
    "sort=fpr_random&ascending=1",
    "sort=breadth&explained_by=bands+low&most=3",
)


@pytest.fixture(scope="module")
def address(finished: Path, described: Path) -> Iterator[str]:
    with served([OpenedRun(finished), OpenedRun(described)], live=True) as address:
        yield address


@contextmanager
def served(runs: Sequence[OpenedRun], *guarded: str, live: bool = False) -> Iterator[str]:
    """Where they are; `guarded` are the host and the token of `application`."""
    app = application(runs, *guarded, live=live)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
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


@pytest.fixture(params=["phone, dark", "phone, light", "desk, dark", "desk, light"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """Whatever the browser complains of is a failure."""
    width, theme = request.param.split(", ")
    with opened(browser, width, theme) as page:
        yield page


@contextmanager
def opened(browser: Browser, width: str, theme: str) -> Iterator[Page]:
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    page = browser.new_page(viewport=size, color_scheme=theme)
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda failed: complaints.append(failed.url))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    yield page
    page.close()
    assert complaints == []


def fits(page: Page) -> bool:
    """Whether nothing but what scrolls by itself is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def follow(page: Page, selector: str) -> None:
    """Click on what leads to another page, and wait for that."""
    with page.expect_navigation():
        page.click(selector)


def test_a_reader_goes_from_the_run_to_a_latent_and_on(page: Page, address: str) -> None:
    page.goto(f"{address}/0/")
    assert page.locator("svg.ledger-bar").count() == 1 and fits(page)
    follow(page, "nav >> text=Latents")
    assert page.locator("table.latents tbody tr").count() == 100 and fits(page)
    follow(page, "tbody th a >> nth=0")
    assert "/latent/" in page.url and page.locator(".tokens").count() > 0 and fits(page)
    first = page.url
    with page.expect_navigation():
        page.keyboard.press("ArrowRight")
    assert page.url != first
    with page.expect_navigation():
        page.keyboard.press("k")
    assert page.url == first


def test_a_run_that_is_going_is_renewed_beneath_a_reader_who_keeps_the_place(
    browser: Browser, finished: Path, tmp_path: Path
) -> None:
    run = RunDirectory(Path(shutil.copytree(finished, tmp_path / "run")))
    whole = run.metrics.read_text()
    last = json.loads(whole.splitlines()[-1])
    run.metrics.write_text(json.dumps(last | {"step": 1}) + "\n")
    with run.locked(), served([OpenedRun(run.path)]) as address, opened(browser, "desk", "light") as page:
        page.clock.install()
        page.goto(f"{address}/0/")
        reading = page.locator("#scores details").first
        reading.locator("summary").click()
        assert "at step 1 of" in page.inner_text("[data-live=training]")
        run.metrics.write_text(whole)
        run.mark("report", replace(run.marks()["report"], complete=False))
        page.clock.run_for(11_000)
        page.wait_for_selector(".more-known", state="visible")
        assert f"at step {last['step']} of" in page.inner_text("[data-live=training]")
        assert page.locator(".stages .begun").inner_text().startswith("report")
        assert reading.evaluate("details => details.open")


def test_a_table_is_searched_filtered_and_sorted(page: Page, address: str) -> None:
    page.goto(f"{address}/0/latents")
    follow(page, "thead >> text=fires on")
    assert "sort=firing_rate" in page.url
    assert page.locator('th[aria-sort="descending"]').inner_text().startswith("fires on")
    follow(page, "thead >> text=fires on")
    assert page.locator('th[aria-sort="ascending"]').count() == 1
    page.click("summary >> text=Filters")
    page.check('input[value="not selected"]')
    follow(page, "button >> text=Show")
    statuses = page.locator("table.latents tbody td:nth-child(5)").all_inner_texts()
    assert statuses and all(status.startswith("not selected") for status in statuses)
    page.fill('input[name="words"]', "no explanation says this")
    with page.expect_navigation():
        page.press('input[name="words"]', "Enter")
    assert page.locator("table.latents tbody tr").count() == 0
    assert page.inner_text('[role="status"]').startswith("0 of")


@pytest.fixture(scope="module")
def folder(described: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(described, tmp_path_factory.mktemp("pages") / "run"))
    assert cli.main(["report", str(run), "--html"]) == 0
    return run / "report" / "html"


def shown(page: Page) -> list[list[str]]:
    """The rows of the table."""
    rows = page.locator("table.latents tbody tr").all()
    return [[" ".join(cell.split()) for cell in row.locator("th, td").all_inner_texts()] for row in rows]


@pytest.mark.parametrize("view", VIEWS)
def test_a_folder_shows_what_the_server_shows(view: str, browser: Browser, address: str, folder: Path) -> None:
    with opened(browser, "desk", "light") as page:
        page.goto(f"{address}/1/latents?{view}")
        of_server, told = shown(page), page.inner_text('[role="status"]').split(" ·")[0]
        page.goto((folder / "latents.html").as_uri() + f"#{view}")
        page.wait_for_function("document.querySelector('[role=status]').textContent !== '…'")
        assert page.inner_text('[role="status"]') == told
        assert shown(page) == of_server != []


def taken(page: Page, kind: str) -> bytes:
    with page.expect_download() as download:
        page.click(f'[data-take="{kind}"]')
    return download.value.path().read_bytes()


@pytest.mark.parametrize(
    "view",
    ["", "sort=latent&status=scored", "words=A&sort=firing_rate&ascending=1", "sort=fpr_random", "sort=tpr&least=0.1"],
)
def test_a_folder_gives_the_files_that_the_server_gives(
    view: str, browser: Browser, address: str, folder: Path, described: Path
) -> None:
    coder = str(OpenedRun(described).now.coders[-1].key)
    whole = {"csv": f"latents.csv?{view}"}
    of_coder = {
        "csv": f"latents.csv?coder={coder}&{view}",
        "features": f"neuronpedia.json?coder={coder}&{view}",
        "explanations": f"neuronpedia.jsonl?coder={coder}&{view}",
    }
    with opened(browser, "desk", "light") as page:
        for filters, files in (("", whole), (f"coder={coder}&", of_coder)):
            page.goto("about:blank")
            page.goto((folder / "latents.html").as_uri() + f"#{filters}{view}")
            page.wait_for_function("document.querySelector('[role=status]').textContent !== '…'")
            assert page.locator(".one-coder").is_visible() == bool(filters)
            assert page.locator(".several-coders").is_visible() == (not filters)
            for kind, there in files.items():
                mine, of_server = taken(page, kind), httpx.get(f"{address}/1/{there}").content
                assert mine == of_server != b"" or json.loads(mine) == json.loads(of_server)


def test_a_folder_offers_only_files_of_which_something_is_there(
    browser: Browser, folder: Path, described: Path
) -> None:
    coder = str(OpenedRun(described).now.coders[0].key)
    with opened(browser, "desk", "light") as page:
        for status, offered in (("scored", True), ("not+selected", False)):
            page.goto("about:blank")
            page.goto((folder / "latents.html").as_uri() + f"#coder={coder}&status={status}")
            page.wait_for_selector('[data-take="features"]')
            told = page.inner_text('[role="status"]').partition(" ")[0]
            assert page.inner_text('[data-take="features"]') == f"{told} features"
            assert page.locator('[data-take="explanations"]').is_visible() == offered
        assert page.locator("table.latents tbody tr").count() > 0


def test_what_is_open_stays_open_for_who_comes_back(page: Page, address: str, folder: Path) -> None:
    scored = page.goto(f"{address}/1/latents?status=scored") and page.locator("table.latents tbody th a").first
    for_server = f"{address}{scored.get_attribute('href')}"
    for latent in (for_server, next((folder / "asked").iterdir()).as_uri().replace("/asked/", "/latent/")):
        page.goto(latent)
        summary = page.locator("article summary", has_text="scored windows").first
        summary.click()
        follow(page, "article details[open] .meta a:has-text('document') >> nth=0")
        page.go_back()
        page.wait_for_load_state()
        assert page.locator("article details[open] summary").all_inner_texts() == [summary.inner_text()]


def test_pages_in_a_folder_are_read_without_a_server(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    assert page.locator("svg.ledger-bar").count() == 1 and fits(page)
    follow(page, "nav >> text=Latents")
    rows = page.locator("table.latents tbody tr")
    rows.nth(99).wait_for()
    assert rows.count() == 100 and fits(page)
    follow(page, "thead >> text=fires on")
    page.locator('th[aria-sort="descending"]', has_text="fires on").wait_for()
    follow(page, "text=further →")
    page.locator(".pages", has_text="page 2 of").wait_for()
    assert page.url.endswith("#sort=firing_rate&page=2")
    page.click("summary >> text=Filters")
    page.check('input[value="scored"]')
    statuses = rows.locator("td:nth-child(5)").all_inner_texts()
    assert statuses and all(status.startswith("scored") for status in statuses)
    page.fill('input[name="words"]', "no explanation says this")
    assert rows.count() == 0 and page.inner_text('[role="status"]').startswith("0 of")
    page.fill('input[name="words"]', "")
    view = page.url
    page.go_back()  # from what was searched
    page.go_back()
    page.locator('input[value="scored"]:not(:checked)').wait_for()
    page.goto(view)
    follow(page, "tbody th a >> nth=0")
    assert page.locator(".card").count() > 0 and page.locator(".tokens").count() > 0 and fits(page)
    latent = page.url
    with page.expect_navigation():
        page.keyboard.press("ArrowRight")
    assert page.url != latent
    assert page.locator("h1").count() == 1
    page.go_back()
    page.click("summary >> text=scored windows >> nth=0")
    follow(page, "text=/^document / >> visible=true >> nth=0")
    page.locator(".contexts .tokens span[title]").first.wait_for()
    assert fits(page) and "context" in page.inner_text('[role="status"]')
    page.go_back()
    follow(page, "a:text-is('asked') >> nth=0")
    assert page.locator(":target").count() == 1 and "Answer" in page.inner_text(":target") and fits(page)
    page.goto(view)
    rows.first.wait_for()
    assert page.is_checked('input[value="scored"]')


@pytest.mark.parametrize(
    ("view", "told"),
    [
        ("sort=colour", "there is no column colour to sort by"),
        ("explained_by=nobody", "there is no explained_by nobody"),
        ("layer=9", "there is no layer 9"),
        ("colour=red", "there is no filter colour"),
        ("status=bogus", "there is no status bogus"),
        ("least_rate=abc", "least_rate is abc; expected a number"),
        ("prefix=7", "there is no prefix 7; there are 0"),
        ("page=-1", "page is -1; expected a number from 1 on"),
        ("size=20.0", "size is 20.0; expected a number from 1 to 1,000"),
        ("size=2000", "size is 2000; expected a number from 1 to 1,000"),
    ],
)
def test_an_address_that_cannot_be_read_is_told_in_a_folder(
    view: str, told: str, browser: Browser, folder: Path
) -> None:
    with opened(browser, "desk", "light") as page:
        page.goto((folder / "latents.html").as_uri())
        page.locator("table.latents tbody tr").first.wait_for()
        page.goto((folder / "latents.html").as_uri() + f"#{view}")
        page.locator('[role="status"]', has_text=told).wait_for()
        assert page.locator("table.latents tbody tr").count() == 0
        assert not page.locator('a[rel="next"]').is_visible()
        page.click("summary >> text=Filters")
        page.check('input[value="rare"][name="flag"]')
        page.uncheck('input[value="rare"][name="flag"]')
        page.locator("table.latents tbody tr").first.wait_for()
        assert page.locator("table.latents tbody tr").count() == 100


def test_the_link_to_the_content_leaves_the_view_of_a_folder_alone(browser: Browser, folder: Path) -> None:
    with opened(browser, "desk", "light") as page:
        page.goto((folder / "latents.html").as_uri() + "?size=20&page=3")
        page.wait_for_url("**#size=20&page=3")
        rows = page.locator("table.latents tbody tr")
        rows.first.wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert page.url.endswith("#size=20&page=3") and rows.count() == 20


def test_a_word_that_is_searched_is_one_step_back(browser: Browser, folder: Path) -> None:
    with opened(browser, "desk", "light") as page:
        page.goto((folder / "latents.html").as_uri() + "#size=20&page=3")
        page.locator("table.latents tbody tr").first.wait_for()
        page.locator('[name="words"]').press_sequentially("word")
        page.wait_for_url("**words=word**")
        page.go_back()
        page.locator(".pages", has_text="page 3 of").wait_for()
        assert page.url.endswith("#size=20&page=3")


def test_a_document_of_which_the_firings_are_not_there_is_not_shown_as_silent(browser: Browser, folder: Path) -> None:
    here = {path.stem for path in (folder / "documents").iterdir()}
    firings, others = next(
        (path, others)
        for path in sorted((folder / "firings").iterdir())
        if (others := sorted(here - {*json.loads(path.read_text().partition("=")[2].rstrip(";\n"))["documents"]}))
    )
    with opened(browser, "desk", "light") as page:
        page.goto((folder / "document.html").as_uri() + f"#{firings.stem}-{others[0]}")
        page.locator('[role="status"]', has_text="no window that is shown of latent").wait_for()
        assert page.locator(".contexts .tokens").count() == 0


def test_a_document_in_a_folder_is_the_one_of_the_server(browser: Browser, address: str, folder: Path) -> None:
    with opened(browser, "desk", "light") as page:
        page.goto(f"{address}/1/latents?status=scored")
        follow(page, "tbody th a >> nth=0")
        page.goto(str(page.locator("text=/^document / >> nth=0").evaluate("link => link.href")))
        *_, coder, latent, number = page.url.partition("?")[0].split("/")
        context = page.url.rpartition("#")[2]
        assert page.locator(".context:target").get_attribute("id") == context
        of_server = page.locator(".tokens").all_inner_texts()
        fired = page.locator(".tokens span[title]").evaluate_all("all => all.map(one => [one.className, one.title])")
        place = sorted(path.name for path in (folder.parent.parent / "coders").iterdir()).index(coder)
        page.goto(f"{(folder / 'document.html').as_uri()}#{place}-{latent}-{number}-{context.removeprefix('context-')}")
        page.locator(".contexts .tokens").first.wait_for()
        assert page.locator(".context.here").get_attribute("id") == context
        assert page.locator(".tokens").all_inner_texts() == of_server
        assert fired == page.locator(".tokens span[title]").evaluate_all(
            "all => all.map(one => [one.className, one.title])"
        )


def test_foreign_text_in_a_folder_stays_text(browser: Browser, hostile: Path, tmp_path: Path) -> None:
    export(OpenedRun(hostile), tmp_path / "pages", silent)
    with opened(browser, "phone", "dark") as page:
        page.goto((tmp_path / "pages" / "latents.html").as_uri() + "#status=scored")
        row = page.locator("table.latents tbody tr").first
        row.wait_for()
        assert "<script>alert(1)</script>" in row.inner_text() and fits(page)
        follow(page, "tbody th a >> nth=0")
        assert "<script>alert(1)</script>" in page.inner_text("main") and fits(page)
        latent = page.url
        page.click("summary >> text=scored windows >> nth=0")
        follow(page, "text=/^document / >> visible=true >> nth=0")
        page.locator(".contexts .tokens span[title]").first.wait_for()
        assert "<b>" in page.inner_text(".contexts") and page.locator(".contexts b, .contexts script").count() == 0
        page.goto(latent)
        follow(page, "text=all that was asked about it")
        assert "<script>alert(1)</script>" in page.inner_text("article.asked >> nth=0") and fits(page)
        page.goto((tmp_path / "pages" / "index.html").as_uri())
        assert "<script>alert(1)</script>" in page.inner_text("main") and fits(page)


def test_foreign_text_on_a_server_stays_text(browser: Browser, hostile: Path) -> None:
    with (
        served([OpenedRun(hostile), OpenedRun(hostile)], live=True) as address,
        opened(browser, "phone", "light") as page,
    ):
        page.goto(f"{address}/0/latents?status=scored")
        follow(page, "tbody th a >> nth=0")
        latent = page.url
        for at in ("/0/", "/0/latents?status=scored", latent.removeprefix(address)):
            page.goto(address + at)
            assert fits(page), at
            assert page.locator("main img, main script").count() == 0, at
            assert "<script>alert(1)</script>" in page.inner_text("main"), at


def test_an_address_with_its_token_leads_to_a_coder_whose_name_is_quoted(finished: Path) -> None:
    """Names of coders hold quoted hookpoints, and stand in addresses quoted again."""
    with served([OpenedRun(finished)], "0.0.0.0", "secret") as address:
        asked = f"{address}/0/latent/topk,mlp%253Ainput,mlp%253Ainput,0/3"
        answer = httpx.get(f"{asked}?token=secret&sort=latent")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{asked.removeprefix(address)}?sort=latent"


def test_every_page_is_photographed(page: Page, address: str, folder: Path, tmp_path: Path) -> None:
    photograph(page, address, folder, tmp_path)


def test_every_page_of_a_run_of_ones_own_is_photographed(
    page: Page, own: tuple[str, Path], request: pytest.FixtureRequest
) -> None:
    pictures = Path(f"{request.config.getoption('--photograph')}-pictures") / request.node.callspec.params["page"]
    pictures.mkdir(parents=True, exist_ok=True)
    photograph(page, *own, pictures)


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The run that --photograph names, on a server twice and in a folder."""
    path = request.config.getoption("--photograph")
    if path is None:
        pytest.skip("--photograph names no run")
    folder = tmp_path_factory.mktemp("own") / "pages"
    export(OpenedRun(path), folder, silent)
    with served([OpenedRun(path), OpenedRun(path)], live=True) as address:
        yield address, folder


def photograph(page: Page, address: str, folder: Path, pictures: Path) -> None:
    """Nothing is wider than the window, and every picture shows something."""
    page.goto(f"{address}/1/latents?status=scored")
    follow(page, "tbody th a >> nth=0")
    scored = page.url
    document = str(page.locator("text=/^document / >> nth=0").evaluate("link => link.href"))
    asked = str(page.locator("a:text-is('asked') >> nth=0").evaluate("link => link.href"))
    page.goto(f"{address}/1/latents?status=not+selected")
    follow(page, "tbody th a >> nth=0")
    pages = {
        "runs": f"{address}/",
        "run": f"{address}/1/",
        "latents": f"{address}/1/latents",
        "filters": f"{address}/1/latents?status=scored&sort=auroc&least=0.1",
        "scored": scored,
        "not-selected": page.url,
        "document": document,
        "asked": asked,
        "try": f"{address}/1/try?text=The+river+ran+past+the+old+mill+and+under+the+bridge+into+the+town.",
        "compare": f"{address}/compare?first=0&second=1",
        "folder-run": (folder / "index.html").as_uri(),
        "folder-latents": (folder / "latents.html").as_uri(),
    }
    for name, at in pages.items():
        answer = page.goto(at)
        assert answer is not None and answer.ok and page.locator("h1").count() == 1, name
        page.wait_for_load_state("networkidle")
        assert fits(page), name
        page.screenshot(path=pictures / f"{name}.png", full_page=True)
        assert (pictures / f"{name}.png").stat().st_size > 10_000, name


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_all_text_stands_out_from_what_is_behind_it(theme: str, browser: Browser, address: str) -> None:
    with opened(browser, "desk", theme) as page:
        page.goto(f"{address}/1/latents?status=scored")
        latent = str(page.locator("tbody th a").first.evaluate("link => link.href"))
        for at in (f"{address}/1/", f"{address}/1/latents?layer=1", latent, latent.replace("/latent/", "/asked/")):
            page.goto(at)
            contrast, whose = page.evaluate(CONTRAST)
            assert contrast >= 4.5, (at, whose)


def test_the_window_is_filled_before_it_is_scrolled(page: Page, address: str, folder: Path) -> None:
    """No layout shift, on a slow machine and a slow line too: what stands there stays where it is."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 10})
    line = {"offline": False, "latency": 5, "downloadThroughput": 100_000, "uploadThroughput": -1}
    devtools.send("Network.emulateNetworkConditions", line)
    for at in (f"{address}/0/latents", (folder / "latents.html").as_uri()):
        page.goto(at)
        page.locator("tbody th a").first.wait_for()
        shift = page.evaluate(
            "new Promise(done => { let sum = 0;"
            "new PerformanceObserver(list => { for (const e of list.getEntries()) sum += e.value; })"
            ".observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 500); })"
        )
        assert shift < 0.01, at
