"""How fast does the dashboard show the table of all latents?

    python benchmarks/dashboard.py [--quick] [--latents 500000] [--rounds 9]

A made-up run of one coder in three layers, a tenth of whose latents are explained and scored on eight windows each.
Timed is the answer to a request, from the address to the last byte of HTML, as `outcrop serve` gives it, without the
network and the browser's drawing:

    unreported  the first request of all, of a run without a report: the tables are computed
    open        the first request of all, of a run with its report: the tables are read
    view        the first page by balanced accuracy
    sorted      the first page by another number each time, sorted for the first time
    searched    the explanations that contain a word, of some layers
    csv         all rows, taken away
    paint       the first page in headless Chromium over loopback, from the click on a link to it to the first
                contentful paint; `paint_cold` in a new tab with an empty cache. Both null where there is no Chromium

There is no peer: SAEDashboard and Neuronpedia draw pages latent by latent. The last line is JSON: medians in seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import uvicorn
from playwright.sync_api import sync_playwright
from report import KEY, Row, coder, insert, latents
from starlette.testclient import TestClient

from outcrop.config import ModelConfig, RunConfig, TextConfig, dump, load
from outcrop.contents import Contents
from outcrop.dashboard.latents import SCORES, STATISTICS
from outcrop.dashboard.opened import OpenedRun
from outcrop.dashboard.server import application
from outcrop.progress import silent
from outcrop.results import Results
from outcrop.run import RunDirectory, StageMark

FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--disable-background-networking"]
PAINT = """new Promise(done => new PerformanceObserver(list => {
  for (const one of list.getEntriesByName("first-contentful-paint")) done(one.startTime / 1000);
}).observe({ type: "paint", buffered: true }))"""
SORTED = ("layer", *STATISTICS, *(name for name in SCORES if name != "balanced_accuracy"), "fpr")
WORDS = ("river", "bank", "verbs", "of", "motion", "names", "cities", "numbers", "after", "a", "colon", "negation")


def make(path: Path, n_latents: int) -> None:
    directory = RunDirectory(path)
    directory.create()
    directory.coders.mkdir()
    directory.config.write_text(dump(RunConfig(ModelConfig("m"), TextConfig("t"), ("model.layers.15",))))
    for stage in ("tokens", "train", "cache", "examples", "explain", "score"):
        directory.mark(stage, StageMark({}, complete=True, models={}, addresses={}))
    Results(directory.results).close()
    with sqlite3.connect(directory.results) as db:
        generator, explained = np.random.default_rng(0), range(0, n_latents, 10)
        insert(
            db,
            coders=[coder(n_latents)],
            latents=latents(n_latents, generator),
            strata=((KEY, i, "random", 1.0, 1000, None) for i in explained),
            examples=examples(explained),
            explanations=explanations(explained, generator),
            judgements=judgements(explained, generator),
        )


def examples(of: Sequence[int]) -> Iterator[Row]:
    for latent in of:
        for i in range(8):
            quantile, stratum = (i % 4 + 1, None) if i < 4 else (None, "random")
            yield KEY, latent, i, "score", i, i, quantile, stratum, None, None, float(i < 4), float(i < 4)


def explanations(of: Sequence[int], generator: np.random.Generator) -> Iterator[Row]:
    for latent in of:
        text = " ".join(generator.choice(WORDS, 5))
        yield KEY, latent, "contrastive", "all", text, "", None, None, 10, 320, None, "[]"


def judgements(of: Sequence[int], generator: np.random.Generator) -> Iterator[Row]:
    for latent in of:
        for i, p in enumerate(generator.random(8).tolist()):
            yield KEY, latent, "detection", "plain", "contrastive", "all", i, p, p > 0.5, "", None, None, None


def report(path: Path) -> None:
    directory = RunDirectory(path)
    contents = Contents(directory, load(directory.config), silent)
    with contents.results() as results:
        contents.tables(results)


def opened(path: Path) -> TestClient:
    return TestClient(application([OpenedRun(path)]), base_url="http://127.0.0.1")


def timed(client: TestClient, addresses: Sequence[str]) -> float:
    turns = []
    for address in addresses:
        start = time.perf_counter()
        client.get(address).raise_for_status()
        turns.append(time.perf_counter() - start)
    return round(statistics.median(turns), 4)


def painted(path: Path, rounds: int) -> dict[str, float | None]:
    """Of a server that has read its tables."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        return {"paint": None, "paint_cold": None}
    server = uvicorn.Server(uvicorn.Config(application([OpenedRun(path)]), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/0/latents"
    warm, cold = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for _ in range(rounds + 1):  # the first warms the server up
            page = browser.new_page()
            page.goto(address)
            cold.append(page.evaluate(PAINT))
            page.goto(f"{address}?page=2")
            with page.expect_navigation():
                page.click("nav >> text=Latents")
            warm.append(page.evaluate(PAINT))
            page.close()
        browser.close()
    server.should_exit = True
    thread.join()
    return {"paint": round(statistics.median(warm[1:]), 4), "paint_cold": round(statistics.median(cold[1:]), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 latents")
    parser.add_argument("--latents", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    n, page = 20_000 if options.quick else options.latents, "/0/latents"
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), n)
        with opened(Path(folder)) as client:
            unreported = timed(client, [page])
        report(Path(folder))
        with opened(Path(folder)) as client:
            found: dict[str, float | None] = {
                "unreported": unreported,
                "open": timed(client, [page]),
                "view": timed(client, [page] * options.rounds),
                "sorted": timed(client, [f"{page}?sort={name}" for name in SORTED]),
                "searched": timed(client, [f"{page}?words={word}&layer={i % 3}" for i, word in enumerate(WORDS)]),
                "csv": timed(client, [f"{page}.csv"]),
            }
        found |= painted(Path(folder), options.rounds)
    for name, seconds in found.items():
        print(f"{name}: {seconds} s", file=sys.stderr)
    print(json.dumps({"latents": n, "rounds": options.rounds, **found}))


if __name__ == "__main__":
    main()
