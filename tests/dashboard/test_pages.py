"""Every page of a tiny run, over HTTP without a network; who is let in; and text that would rather be markup."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import httpx
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from starlette.testclient import TestClient

from outcrop import cli
from outcrop.dashboard import asked, neuronpedia
from outcrop.dashboard.export import export
from outcrop.dashboard.latents import SCORES
from outcrop.dashboard.links import ServerLinks
from outcrop.dashboard.opened import OpenedRun
from outcrop.dashboard.portrait import portrait
from outcrop.dashboard.server import application
from outcrop.dashboard.view import View
from outcrop.errors import ConfigError, RunError
from outcrop.interp.scorers.judging import ArmName
from outcrop.progress import silent
from outcrop.replies import Replies
from outcrop.report.scorers import SCORERS
from outcrop.report.text import number, visible, visible_token
from outcrop.results import Results
from outcrop.run import RunDirectory
from outcrop.types import CoderKey, LatentId
from tests.dashboard.conftest import HOSTILE
from tests.test_pipeline import snapshot
from tests.tiny_run import SETTINGS

LOCAL = "http://127.0.0.1"
TYPED = (("/0/latents", "words"), ("/0/latents", "sort"), ("/0/try", "text"))
N_LATENTS = int(SETTINGS["coder.n-latents"]) * int(SETTINGS["coder.layers"]) * 2


@pytest.fixture(scope="module")
def client(finished: Path) -> Iterator[TestClient]:
    with TestClient(application([OpenedRun(finished)]), base_url=LOCAL) as client:
        yield client


def links(page: str) -> set[str]:
    return {html.unescape(link) for link in re.findall(r'(?:href|src)="(/[^"#]*)(?:#[^"]*)?"', page)}


def test_every_link_leads_to_a_page_and_nothing_is_written(client: TestClient, finished: Path) -> None:
    before, seen = snapshot(finished), ["/"]
    for n, address in enumerate(seen):  # breadth first
        answer = client.get(address)
        assert answer.status_code == 200, address
        if "text/html" in answer.headers["content-type"] and n < 149:
            seen += sorted(links(answer.text) - {*seen})
    assert sum("/latent/" in address for address in seen) > 20
    assert {"/0/", "/0/latents", "/static/page.css", "/static/dashboard.js"} <= {*seen}
    assert snapshot(finished) == before


def test_an_explained_latent_shows_its_windows_and_a_dead_one_its_page(client: TestClient) -> None:
    scored = client.get("/0/latents", params={"status": "scored"}).text
    (first, *_) = sorted(link for link in links(scored) if "/latent/" in link)
    page = client.get(first).text
    assert "scored windows" in page and 'class="tokens"' in page and "balanced accuracy" in page
    others = client.get("/0/latents", params={"status": ["unfired", "rare", "not selected"]}).text
    address = next(link for link in sorted(links(others)) if "/latent/" in link)
    assert client.get(address).status_code == 200


def test_an_unselected_latent_shows_its_strongest_windows(client: TestClient) -> None:
    page = client.get("/0/latents", params={"status": "not selected", "sort": "firing_rate"}).text
    address = next(link for link in links(page) if "/latent/" in link)
    shown = client.get(address).text
    assert "Its strongest windows" in shown and "activation" in shown


ASKED = """SELECT request FROM explanations WHERE coder = ?1 AND latent = ?2
  UNION SELECT request FROM judgements WHERE coder = ?1 AND latent = ?2
  UNION SELECT request FROM relations WHERE coder = ?1 AND latent = ?2"""


def test_every_prompt_and_answer_about_a_latent_is_one_click_away(judged: Path) -> None:
    opened = OpenedRun(judged)
    coder, latent = next(zip(*(opened.now.tables.bands[name] for name in ("coder", "latent")), strict=True))
    with closing(sqlite3.connect(judged / "results.sqlite")) as db:
        requests = {request for (request,) in db.execute(ASKED, (coder, int(latent))) if request}
    with TestClient(application([opened]), base_url=LOCAL) as client:
        shown = client.get(f"/0/latent/{coder}/{latent}").text
        page = client.get(f"/0/asked/{coder}/{latent}").text
    assert {*re.findall(r'<article class="asked" id="(.*?)"', page)} == requests and page.count("<h3>Answer") == len(
        requests
    )
    assert f'href="{ServerLinks(0).asked(coder, int(latent))}"' in shown
    linked = re.findall(rf'href="{re.escape(ServerLinks(0).asked(coder, int(latent)))}#(.*?)"', shown)
    assert len({*linked}) > 10 and {*linked} <= requests
    titles = re.findall(r'<h2 id="for-\d+">(.*?) <span', page)
    assert len(titles) == len({*titles})
    assert titles == re.findall(r'<li><a href="#for-\d+">(.*?)</a>', page)
    for title in (
        "Explaining, contrastive",
        "Detection, contrastive",
        "Detection, contrastive, told the base rate",
        "Detection, contrastive, another latent’s explanation",
        "Detection, without an explanation",
        "Fuzzing, bands low",
        "Intruder, q1",
        "Simulation, contrastive",
        "Relation, bands low and high",
    ):
        assert title in titles
    text = html.unescape(re.sub("<[^>]+>", "", page.replace("<br>", "\n")))
    with Replies(judged / "replies.sqlite", read_only=True) as replies:
        for request in requests:
            said = [replies.prompt(request)[-1].content, replies.about(request)["text"] or ""]
            for line in filter(None, (line.strip() for one in said for line in one.splitlines())):
                assert visible(line, 10_000) in text


def test_every_arm_and_scorer_has_its_place_on_the_page() -> None:
    explainers = [("contrastive", "all")]
    for scorer in SCORERS:
        for arm in get_args(ArmName):
            assert isinstance(asked._by(explainers)((scorer, arm, "contrastive", "all", "hash")), tuple)


def test_a_reply_that_is_gone_is_told_on_the_server_and_in_files(described: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(described, tmp_path / "run"))
    opened = OpenedRun(run)
    row = opened.now.latents("contrastive", "all").page(View(status=("scored",))).rows[0]
    address = f"/0/asked/{row['coder']}/{row['latent']}"
    with closing(sqlite3.connect(run / "replies.sqlite", isolation_level=None)) as replies:
        (gone,) = opened.now.purposes(LatentId(CoderKey.parse(row["coder"]), row["latent"]))[0].requests
        assert replies.execute("DELETE FROM replies WHERE request = ?", (gone,)).rowcount == 1
    with TestClient(application([opened]), base_url=LOCAL) as client:
        page = client.get(address).text
        assert f"{gone}, is not in the file of replies" in page and "<h3>Answer</h3>" in page
        (run / "replies.sqlite").unlink()
        page = client.get(address).text
        assert "The file of replies cannot be read: there is no" in page and "<article" not in page
        assert "The file of replies cannot be read: there is no" in client.get("/0/").text
        (run / "replies.sqlite").write_bytes(b"SQLite format 3" + bytes(2_000))
        assert "cannot be read" in client.get(address).text and "cannot be read" in client.get("/0/").text
    export(OpenedRun(run), tmp_path / "pages", silent)
    asked = [path.read_text() for path in (tmp_path / "pages" / "asked").iterdir()]
    assert asked and all("cannot be read" in page and "is not in the file" not in page for page in asked)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_rows_of_a_view_can_be_taken_away(client: TestClient, kind: str) -> None:
    answer = client.get(f"/0/latents.{kind}", params={"sort": "latent", "ascending": "1"})
    read = {"csv": pyarrow.csv.read_csv, "parquet": pyarrow.parquet.read_table}[kind]
    rows = read(io.BytesIO(answer.content))
    assert answer.headers["content-disposition"] == f'attachment; filename="latents-contrastive.{kind}"'
    assert rows.num_rows == N_LATENTS
    assert rows["latent"].to_pylist() == sorted(rows["latent"].to_pylist())


@pytest.mark.parametrize(
    ("address", "status", "told"),
    [
        ("/0/latents?ascending=true", 400, "ascending is &#39;true&#39;"),
        ("/0/latents?hookpoint=nope", 400, "there is no hookpoint nope; there are model.layers."),
        ("/0/latents?sort=simulation", 400, "there is no simulation here to sort by"),
        (f"/compare?first={'9' * 5_000}&second=0", 400, "expected its number"),
        (f"/{'9' * 5_000}/", 414, "no address here is so long"),
        ("/0/latents?layer=two", 400, "expected a number"),
        ("/0/latents?explained_by=nobody", 400, "nobody called"),
        ("/0/latents.xls", 404, "csv, parquet"),
        ("/0/latent/no,such,coder,0/3", 404, "there is no latent 3"),
        ("/0/latent/%2e%2e/%2e%2e/etc/1", 404, "there is no latent 1 of ../../etc"),
        ("/0/document/no,such,coder,0/3/0", 404, "there is no latent 3"),
        ("/0/asked/no,such,coder,0/3", 404, "there is no latent 3"),
        ("/7/", 404, "there is no run 7"),
        ("/0/latents?coder=nope", 400, "there is no coder nope; there are topk"),
        ("/0/latents?layer=9", 400, "there is no layer 9; there are 0, 1"),
        ("/static/%2e%2e/server.py", 404, "There is no such page"),
        ("/static/%2e%2e%2fserver.py", 404, "There is no such page"),
    ],
)
def test_what_is_not_there_is_told(client: TestClient, address: str, status: int, told: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert told in answer.text and "import" not in answer.text


def test_two_runs_are_compared(finished: Path) -> None:
    runs = [OpenedRun(finished), OpenedRun(finished)]
    with TestClient(application(runs), base_url=LOCAL) as client:
        assert 'action="/compare"' in client.get("/").text
        page = client.get("/compare?first=0&second=1").text
        assert "over 2 coders of the same weights" in page and "balanced accuracy against random windows" in page
        assert "names no second run" in client.get("/compare?first=0").text
        assert client.get("/compare?first=0&second=two").status_code == 400
        assert client.get("/compare?first=0&second=5").status_code == 404


def test_requests_from_elsewhere_are_refused(client: TestClient) -> None:
    assert client.get("/0/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/0/", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/0/").status_code == 405
    assert client.get("/0/", headers={"host": "[::1]:8118", "sec-fetch-site": "same-origin"}).status_code == 200


def test_pages_may_load_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/0/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"<script(?! src=\"/static)|style=|\son\w+=|(src|href|action)=\"\w+:(?!,)", answer.text)


def test_a_page_that_fails_is_told_and_guarded_too(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("unforeseen")

    monkeypatch.setattr("outcrop.dashboard.server.run_page", fail)
    app = application([OpenedRun(finished)])
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        answer = client.get("/0/")
    assert answer.status_code == 500 and "ValueError" in answer.text and "unforeseen" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_beyond_loopback_the_token_is_asked_for(finished: Path) -> None:
    with TestClient(application([OpenedRun(finished)], "0.0.0.0", "secret"), base_url="http://box:8118") as client:
        assert client.get("/0/").status_code == 401
        assert client.get("/0/?token=guess").status_code == 401
        shown = client.get("/0/latents?token=secret&layer=1", follow_redirects=False)
        assert (shown.status_code, shown.headers["location"]) == (303, "/0/latents?layer=1")
        assert client.get("/0/").status_code == 200


def test_a_latent_is_shown_with_what_the_cache_and_the_weights_say(described: Path) -> None:
    rows = pyarrow.parquet.read_table(described / "statistics.parquet").to_pylist()
    row = max(rows, key=lambda row: row["n_fired"] if row["triggers"] else 0)
    opened = OpenedRun(described)
    with TestClient(application([opened]), base_url=LOCAL) as client:
        page = client.get(f"/0/latent/{row['coder']}/{row['latent']}").text
        diffuse = row["triggers_cover"] < 0.5
        title = "No few tokens set it off" if diffuse else "Set off by"
        table = re.search(rf"<b>{title}</b>.*?</table>", page, re.S)[0]
        assert table.count("<tr>") == 1 + len(row["triggers"])
        near = re.search(r"<b>Neighbours</b> by decoder.*?</table>", page, re.S)[0]
        assert [int(link.rpartition("/")[2]) for link in re.findall(r'href="([^"]*)"', near)] == row[
            "decoder_neighbours"
        ]
        told = opened.now.latents("contrastive", "all").table(View()).to_pylist()
        texts = {one["latent"]: one["text"] for one in told if one["coder"] == row["coder"]}
        set_off = {one["latent"]: one["triggers"] if (one["triggers_cover"] or 0) >= 0.5 else []
                   for one in rows if one["coder"] == row["coder"]}  # fmt: skip
        expected = [texts[one] or next(map(visible_token, set_off[one]), "") for one in row["decoder_neighbours"]]
        beside = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r'"what".*?>(.*?)</td>', near, re.S)]
        assert list(map(html.unescape, beside)) == expected and any(expected)
        assert re.search(r"<b>Raises</b> the logits of.*?<b>Lowers</b> the logits of", page, re.S)
        assert f"{row['n_fired']:,} firings, in factors of 2" in page
        bars = [int(n) for n in re.findall(r": ([\d,]+) firings</title>", page)]
        assert sum(bars) == row["n_fired"] == sum(row["histogram"])


def test_a_latent_that_never_fired_has_no_activations_to_show(described: Path) -> None:
    table = pyarrow.parquet.read_table(described / "statistics.parquet")
    dead = table.slice(0, 1).to_pylist()[0] | {
        "n_fired": 0,
        "histogram": [0] * 32,
        "triggers": [],
        "triggers_cover": None,
    }
    found = portrait(dead | {"triggers_probability": [], "triggers_share": []})
    assert found.activations is None and found.positions is None and found.triggers == []


def test_every_scored_latent_is_a_dot_that_leads_to_it(described: Path) -> None:
    opened = OpenedRun(described)
    with TestClient(application([opened]), base_url=LOCAL) as client:
        page = client.get("/0/").text
        dots = re.findall(r'<a href="([^"]*)" tabindex="-1"><circle', page)
        scores = opened.now.tables.scores
        mine = scores.by("contrastive", "all") & ~np.isnan(
            scores.arms["explanation"]["balanced_accuracy"].estimate.value
        )
        about = {name: scores.about[name][mine].tolist() for name in ("coder", "latent")}
        assert len(dots) == mine.sum() > 0
        assert {*dots} == {ServerLinks(0).latent(*one) for one in zip(about["coder"], about["latent"], strict=True)}


def test_every_scored_latent_is_in_the_spread_of_each_score_with_its_mean_and_interval(described: Path) -> None:
    opened = OpenedRun(described)
    with TestClient(application([opened]), base_url=LOCAL) as client:
        section = re.search(r'<h2 id="h-spread">.*?</section>', client.get("/0/").text, re.S)[0]
    means = opened.now.findings["overall"]["macro"]["explanation"]
    figures = re.findall(r"<figure>.*?</figure>", section, re.S)
    assert len(figures) >= 4
    for name, title in SCORES.items():
        shown = [figure for figure in figures if f"<b>{title}</b>" in figure]
        assert len(shown) == bool(means[name]["n"])
        for figure in shown:
            assert sum(int(n) for n in re.findall(r": (\d+) latents</title>", figure)) == means[name]["n"]
            assert f'<span class="v">{number(means[name]["value"])}</span>' in figure and "n " in figure


def test_what_was_asked_of_each_model_is_on_the_page_of_the_run(client: TestClient, finished: Path) -> None:
    asked = re.search(r'<h2 id="h-asked">.*?</table>', client.get("/0/").text, re.S)[0]
    with Replies(finished / "replies.sqlite", read_only=True) as replies:
        (total,) = replies.totals()
    assert f"<td>{total['n_requests']:,}</td>" in asked and "no price is known" in asked


def test_latents_can_be_taken_to_neuronpedia(described: Path) -> None:
    opened = OpenedRun(described)
    coder = opened.now.tables.coder_names[1]
    view = {"coder": coder, "sort": "firing_rate", "size": 5, "status": ["scored", "not selected"]}
    with TestClient(application([opened]), base_url=LOCAL) as client:
        batch = client.get("/0/neuronpedia.json", params=view).json()
        lines = client.get("/0/neuronpedia.jsonl", params=view | {"status": "scored"}).text.splitlines()
        assert client.get("/0/neuronpedia.json", params={"size": 200, "sort": "latent"}).status_code == 400
        assert client.get("/0/neuronpedia.xml", params=view).status_code == 404
        unexplained = client.get("/0/neuronpedia.jsonl", params=view | {"status": "not selected"})
        assert unexplained.status_code == 400 and "none of these latents has an explanation" in unexplained.text
        answer = client.get("/0/neuronpedia.json", params=view | {"words": "no such words"})
        assert answer.status_code == 400 and "chooses no latent" in answer.text
        named = client.get("/0/neuronpedia.json", params=view).headers["content-disposition"]
        assert named == 'attachment; filename="batch-0.json"', "Neuronpedia's importer reads batch-*"
        rows = pyarrow.csv.read_csv(io.BytesIO(client.get("/0/latents.csv", params=view).content))
    assert (batch["model_id"], batch["layer"], batch["sae_set"], batch["sae_id_suffix"]) == ("model", 1, "topk", None)
    assert neuronpedia.source(opened.now.config, CoderKey.parse("a,model.layers.3.mlp:input,model.layers.3.mlp,2")) == {
        "model_id": "model", "layer": 3, "sae_set": "a-mlp:input-model.layers.3.mlp-seed2", "sae_id_suffix": None
    }  # fmt: skip
    statistics = {row["latent"]: row for row in pyarrow.parquet.read_table(described / "statistics.parquet").to_pylist()
                  if row["coder"] == coder}  # fmt: skip
    assert [feature["feature_index"] for feature in batch["features"]] == sorted(rows["latent"].to_pylist())
    assert len(batch["features"]) > 5, "all rows of the view, not one page"
    strongest = list[bool]()
    for feature in batch["features"]:
        row = statistics[feature["feature_index"]]
        assert feature["frac_nonzero"] == row["firing_rate"] and feature["pos_str"] == row["raises"]
        assert sum(feature["freq_hist_data_bar_heights"]) == row["n_fired"]
        peaks = [max(window["values"]) for window in feature["activations"]]
        assert (
            not peaks or max(peaks) <= row["max_activation"] * 1.001
        )  # a peak between two windows of the grid is in none
        strongest.append(bool(peaks) and max(peaks) == pytest.approx(row["max_activation"], rel=1e-3))
        for window, peak in zip(feature["activations"], peaks, strict=True):
            assert len(window["tokens"]) == len(window["values"])
            assert window["values"][window["qualifying_token_index"]] == peak
            assert window["bin_min"] <= peak <= window["bin_max"]
    assert sum(strongest) > 0.8 * len(strongest)
    texts = {row["latent"]: row["text"] for row in opened.now.latents("contrastive", "all").table(View()).to_pylist()
             if row["coder"] == coder}  # fmt: skip
    for line in map(json.loads, lines):
        assert line["description"] == texts[int(line["index"])]
        assert (line["modelId"], line["layer"], line["typeName"]) == ("model", "1-topk", "contrastive")
    assert lines


def test_the_document_of_a_window_is_one_click_away(client: TestClient, finished: Path) -> None:
    scored = client.get("/0/latents", params={"status": "scored"}).text
    (latent, *_) = sorted(link for link in links(scored) if "/latent/" in link)
    documents = sorted(link for link in links(client.get(latent).text) if "/document/" in link)
    page = client.get(documents[0]).text
    contents = OpenedRun(finished).now._contents
    address, _, context = documents[0].partition("#")
    corpus, number = contents.corpus("cache"), int(address.partition("?")[0].rpartition("/")[2])
    numbers = np.flatnonzero(corpus.context_document == number)
    assert re.findall(r'id="(context-\d+)"', page) == [f"context-{i}" for i in numbers] and context in page
    text = contents.vocabulary.text(corpus.tokens[corpus.document_of == number])
    shown = html.unescape(re.sub("<[^>]+>", "", "".join(re.findall(r'<p class="tokens".*?</p>', page, re.S))))
    assert shown.replace("↵", "\n") == text
    assert 'title="activation' in page
    assert client.get(documents[0].rpartition("/")[0] + "/999999").status_code == 404


def test_a_text_is_tried_only_where_that_was_asked_for(client: TestClient, finished: Path) -> None:
    assert client.get("/0/try").status_code == 404 and "/0/try" not in client.get("/0/").text
    opened = OpenedRun(finished)
    corpus = opened.now._contents.corpus("cache")
    tokens = corpus.tokens[corpus.context_start[0] : corpus.context_start[1]]
    with TestClient(application([opened], live=True), base_url=LOCAL) as live:
        assert "/0/try" in links(live.get("/0/").text)
        assert live.get("/0/try").status_code == 200
        failed = live.get("/0/try", params={"text": "a"}).text
        assert "no token of the text" in failed and ">a</textarea>" in failed
        assert live.get("/0/try", params={"text": "a " * 3_000}).status_code == 400
        text = opened.now.vocabulary.text(tokens)
        page = live.get("/0/try", params={"text": text}).text
        of_token = live.get("/0/try", params={"text": text, "token": 7}).text.partition("</section>")[0]
        assert live.get("/0/try", params={"text": text, "token": len(tokens)}).status_code == 400
        assert live.get("/0/try", params={"text": text, "token": "x"}).status_code == 400
    cache = opened.now._contents.caches()[0]
    in_cache = {latent: cache[latent] for latent in range(cache.n_latents)}
    here = {latent: one.value[one.position < len(tokens)].max() for latent, one in in_cache.items()
            if (one.position < len(tokens)).any()}  # fmt: skip
    strongest = max(here, key=lambda latent: here[latent])
    first = re.search(r'<li class="window">.*?latent (\d+)</a> <span>peak ([^,]*),', page, re.S)
    kept = float(here[strongest])  # rounded to a float16 share of the latent's largest
    assert int(first[1]) == strongest and first[2] in {number(kept * (1 + error)) for error in (-(2**-11), 0, 2**-11)}
    offered = re.findall(r'<button name="token" value="(\d+)"( disabled)?', page)
    assert [int(i) for i, _ in offered] == list(range(len(tokens)))
    assert [i for i, disabled in offered if disabled] == ["0"]  # a text's first token reaches no coder
    there = {latent for latent, one in in_cache.items() if 7 in one.position}
    told = re.findall(r'<li class="window">.*?latent (\d+)</a>', of_token, re.S)
    assert len(told) > 1 and {*map(int, told)} == there and f"{len(there)} latents fire on token 7" in of_token
    shares = re.findall(r"activation ([0-9.]+), ([0-9.]+)% of its highest in the cache", of_token)
    assert len(shares) == len(told) and all(0 < float(share) <= 100.1 for _, share in shares)
    assert re.search(r'value="7" aria-pressed="true"', of_token)


def test_the_bands_of_a_latent_are_shown_side_by_side(described: Path) -> None:
    opened = OpenedRun(described)
    table = opened.now.tables.bands
    with TestClient(application([opened]), base_url=LOCAL) as client:
        page = client.get(f"/0/latent/{table['coder'][0]}/{table['latent'][0]}").text
        heat = re.search(r'<table class="heat">.*?</table>', page, re.S)[0]
        assert heat.count("<td") == 9
        assert number(float(table["m.low.high"][0])) in heat
        assert "outcrop stats" not in page


def test_without_statistics_the_page_says_how_to_get_them(client: TestClient) -> None:
    scored = client.get("/0/latents", params={"status": "scored"}).text
    (first, *_) = sorted(link for link in links(scored) if "/latent/" in link)
    assert "--neighbours jaccard decoder</code> adds" in client.get(first).text


def test_foreign_text_is_never_markup(hostile: Path) -> None:
    with TestClient(application([OpenedRun(hostile)], live=True), base_url=LOCAL) as client:
        scored = client.get("/0/latents", params={"status": "scored"}).text
        latents = sorted(link for link in links(scored) if "/latent/" in link)
        assert len(latents) > 2
        behind = sorted(links(client.get(latents[-1]).text))
        asked, documents = ([link for link in behind if kind in link][:3] for kind in ("/asked/", "/document/"))
        typed = [str(httpx.URL(path, params={name: HOSTILE[:3_000]})) for path, name in TYPED]
        for address in ("/0/", "/0/latents", *latents, *asked, *documents, *typed, "/compare?first=0&second=0"):
            page = client.get(address)
            assert page.status_code == (400 if "sort=" in address else 200), address
            assert "<script>alert" not in page.text and "<img" not in page.text
            assert "<b>the" not in page.text and ("\u202e" not in page.text or address in typed)
            assert "y" * 10_000 not in page.text or "/asked/" in address
        assert asked and documents
        assert "&lt;script&gt;alert(1)" in scored and "&lt;script&gt;alert(1)" in client.get("/0/").text


def test_foreign_text_is_no_markup_where_two_runs_are_compared(hostile: Path, tmp_path: Path) -> None:
    judged = "UPDATE judgements SET failure = NULL, failure_detail = NULL, probability = NULL, predicted = "
    right = """(SELECT quantile IS NOT NULL FROM examples WHERE (examples.coder, examples.latent, examples.example)
      = (judgements.coder, judgements.latent, judgements.example)) WHERE scorer = 'detection'"""
    runs = []
    for name, says in (("right", ""), ("wrong", "1 - ")):
        run = Path(shutil.copytree(hostile, tmp_path / name))
        with closing(sqlite3.connect(run / "results.sqlite", isolation_level=None)) as db:
            assert db.execute(judged + says + right).rowcount > 0
            db.execute("UPDATE changes SET n = n + 1")
        runs.append(OpenedRun(run))
    with TestClient(application(runs), base_url=LOCAL) as client:
        page = client.get("/compare?first=0&second=1").text
        tables = re.findall(r'aria-label="Which latents moved".*?</table>', page, re.S)
        moved = [row for table in tables for row in re.findall(r'<tr><th scope="row">.*?</tr>', table, re.S)]
        assert moved and all(one.count("&lt;script&gt;alert(1)") == 2 for one in moved)
        assert "<script>alert" not in page and "<img" not in page and "\u202e" not in page
        for link in links(moved[0]):
            assert client.get(link).status_code == 200


def test_foreign_text_is_no_markup_in_files_either(hostile: Path, tmp_path: Path) -> None:
    export(OpenedRun(hostile), tmp_path / "pages", silent)
    pages = [path.read_text() for path in (tmp_path / "pages").rglob("*.html")]
    asked = [*(tmp_path / "pages" / "asked").iterdir()]
    assert asked and len(pages) == N_LATENTS + 3 + len(asked)
    for page in pages:
        assert 'http-equiv="Content-Security-Policy" content="default-src' in page
        assert "<script>alert" not in page and "<img" not in page and "<b>the" not in page and "\u202e" not in page
    scripts = {path: path.read_text() for path in (tmp_path / "pages").rglob("*.js")}
    assert all("\u202e" not in script for script in scripts.values())
    told = json.loads(scripts[tmp_path / "pages" / "explained" / "0.js"].partition("=")[2].rstrip(";\n"))
    assert any(text and "more characters" in text for text in told["shown_text"])


def test_what_cannot_be_put_into_files_is_told(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outcrop.dashboard.export.MOST", 100)
    with pytest.raises(ConfigError, match="256 latents, and a folder of pages is for 100 at most"):
        export(OpenedRun(finished), tmp_path / "pages", silent)
    with RunDirectory(finished).locked(), pytest.raises(RunError, match="another process is working in"):
        export(OpenedRun(finished), tmp_path / "pages", silent)
    shutil.copy(finished / "config.yaml", tmp_path / "config.yaml")
    with pytest.raises(RunError, match="no latents to show yet"):
        export(OpenedRun(tmp_path), tmp_path / "pages", silent)


def test_what_each_explainer_said_lies_in_the_folder_as_a_table(described: Path, tmp_path: Path) -> None:
    opened = OpenedRun(described)
    export(opened, tmp_path / "pages", silent)
    assert len(opened.now.explainers) == 4
    for i, explainer in enumerate(opened.now.explainers):
        texts = opened.now.latents(*explainer).table(View(sort="latent", ascending=True))["text"]
        written = tmp_path / "pages" / "explained" / str(i)
        assert pyarrow.parquet.read_table(written.with_suffix(".parquet"))["text"] == texts


def test_a_page_behind_the_last_is_the_last(client: TestClient) -> None:
    page = client.get("/0/latents", params={"page": 999}).text
    assert re.search(r"page 3 of 3\s*</p>", page) and "page=2" in page and "page=998" not in page


def test_the_next_latent_is_that_of_the_view(client: TestClient) -> None:
    view = {"status": "scored", "sort": "latent"}
    addresses = re.findall(r'<th scope="row"><a href="([^"]*)"', client.get("/0/latents", params=view).text)
    first, second, third, *_ = map(html.unescape, addresses)
    page = html.unescape(client.get(second).text)
    assert f'rel="prev" href="{first}"' in page and f'rel="next" href="{third}"' in page
    assert client.get(second.partition("?")[0] + "?layer=two").status_code == 400
    query = first.partition("?")[2]
    behind = [link for link in links(client.get(second).text) if "/asked/" in link or "/document/" in link]
    assert len(behind) > 2 and all(link.endswith(f"?{query}") for link in behind)
    assert f'href="/0/latents?{query}"' in page, "the way back leads to the view"
    for link in (next(one for one in behind if "/asked/" in one), next(one for one in behind if "/document/" in one)):
        assert f'href="{second}"' in html.unescape(client.get(link).text)
    outside = client.get(first.partition("?")[0] + "?status=unfired").text
    assert 'rel="next"' in outside and "?status" not in outside, "a latent that the view does not hold goes by number"


def test_a_bound_goes_with_the_score_that_it_is_of(client: TestClient) -> None:
    page = html.unescape(client.get("/0/latents", params={"status": "scored", "least": "0.1"}).text)
    heads = re.findall(r'<th scope="col"[^>]*><a href="\?([^"]*)"', page)
    mine = [head for head in heads if "least=" in head]
    assert len(heads) > 8 and len(mine) == 1 and "sort=" not in mine[0] and "ascending=1" in mine[0]
    assert all("status=scored" in head for head in heads)


def test_the_next_latent_is_that_of_the_table_as_it_first_stands(client: TestClient) -> None:
    addresses = re.findall(r'<th scope="row"><a href="([^"]*)"', client.get("/0/latents").text)
    first, second, third, *_ = map(html.unescape, addresses)
    page = html.unescape(client.get(second).text)
    assert f'rel="prev" href="{first}"' in page and f'rel="next" href="{third}"' in page


def test_scores_of_other_scorers_are_columns(judged: Path) -> None:
    opened = OpenedRun(judged)
    values = opened.now.tables.scorers
    with TestClient(application([opened]), base_url=LOCAL) as client:
        heads = re.findall(r'<th scope="col"[^>]*><a[^>]*>([^<▲▼]*)', client.get("/0/latents").text)
        assert {"fuzzing AUROC", "intruder", "simulation"} <= {head.strip() for head in heads}
        rows = pyarrow.csv.read_csv(io.BytesIO(client.get("/0/latents.csv", params={"sort": "fuzzing"}).content))
        scored = next(row for row in rows.to_pylist() if row["fuzzing"] is not None)
        page = client.get(f"/0/latent/{scored['coder']}/{scored['latent']}").text
        assert f"<dt>fuzzing AUROC</dt><dd>{number(scored['fuzzing'])}" in page
        assert page.count("<dt>fuzzing AUROC</dt>") == 4, "of the explanation from all windows, and of each band's"
    shown = {(row["coder"], row["latent"]): row["fuzzing"] for row in rows.to_pylist() if row["fuzzing"] is not None}
    wanted = {"scorer": "fuzzing", "metric": "auroc", "arm": "plain", "explainer": "contrastive", "source": "all"}
    mine = np.logical_and.reduce([values[name] == value for name, value in wanted.items()]) & ~np.isnan(values["value"])
    named = zip(values["coder"][mine].tolist(), values["latent"][mine].tolist(), strict=True)
    assert shown == pytest.approx(dict(zip(named, values["value"][mine].tolist(), strict=True))) and shown


def test_a_view_of_one_coder_goes_to_neuronpedia(client: TestClient, finished: Path) -> None:
    table = OpenedRun(finished).now.latents("contrastive", "all")
    assert table is not None and len(table.hookpoints) == len(table.coders) == 2 == len(table.coders_in(View()))
    assert "choose one coder" in client.get("/0/latents").text
    for place in table.hookpoints:
        rows = table.page(View(hookpoint=place, size=1_000)).rows
        assert [*{row["coder"] for row in rows}] == table.coders_in(View(hookpoint=place))
        page = html.unescape(client.get("/0/latents", params={"hookpoint": place}).text)
        assert client.get(re.search(r'"(neuronpedia.json\?[^"]*)"', page)[1].join(["/0/", ""])).status_code == 200


def test_filters_are_not_open_where_none_is_asked_for(described: Path) -> None:
    with TestClient(application([OpenedRun(described)]), base_url=LOCAL) as client:
        sent = {
            "words": "",
            "explained_by": "",
            "coder": "",
            "layer": "",
            "least": "",
            "sort": View.sort,
            "size": "100",
        }
        assert '<details class="more">' in client.get("/0/latents", params=sent).text
        assert client.get("/0/latents", params=sent).url.query == b""
        assert client.get("/0/latents", params=sent | {"words": "a, b", "page": "1"}).url.query == b"words=a%2C+b"
        assert '<details class="more" open>' in client.get("/0/latents", params=sent | {"layer": "1"}).text


def test_a_run_that_is_still_trained_is_shown(finished: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(finished / name, tmp_path / name)
    marks = RunDirectory(finished).marks()
    RunDirectory(tmp_path).mark("tokens", marks["tokens"])
    with TestClient(application([OpenedRun(tmp_path)]), base_url=LOCAL) as client:
        page = client.get("/0/").text
        assert "data-running" not in page and "Held-out FVU" in page and "No latent is known yet" in page
        with RunDirectory(tmp_path).locked():
            assert "data-running" in client.get("/0/").text
        assert "No latent is known yet" in client.get("/0/latents").text
        shutil.copytree(finished / "coders", tmp_path / "coders")
        RunDirectory(tmp_path).mark("train", marks["train"])
        trained = client.get("/0/").text
        assert 'class="done">train' in trained and "CE recovered, against zeros" in trained
        RunDirectory(tmp_path).mark("examples", replace(marks["examples"], complete=False))
        Results(tmp_path / "results.sqlite").close()
        assert "It stopped within <code>examples</code>" in client.get("/0/").text
        assert "No latent is known yet" in client.get("/0/latents").text, "not all are"


def test_an_address_beyond_loopback_has_its_own_names_alone(finished: Path) -> None:
    with TestClient(application([OpenedRun(finished)], "Machine.example", "secret"), base_url=LOCAL) as client:
        status = {
            host: client.get("/0/", headers={"host": host}).status_code
            for host in ("machine.example:8118", "evil.example", "127.0.0.1")
        }
    assert status == {"machine.example:8118": 401, "evil.example": 421, "127.0.0.1": 421}


def test_runs_of_one_name_are_told_apart(finished: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "run").mkdir(parents=True)
        shutil.copy(finished / "config.yaml", tmp_path / folder / "run")
    with TestClient(application([OpenedRun(tmp_path / one / "run") for one in "ab"]), base_url=LOCAL) as client:
        page = client.get("/").text
        assert all(f'<a href="/{i}/">{one}/run</a>' in page for i, one in enumerate("ab"))


def test_what_is_no_run_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(tmp_path)]) == 2
    assert "is no run directory" in capfd.readouterr().err
    assert cli.main(["serve"]) == 2
    assert "no run is named" in capfd.readouterr().err
