"""From text to report through the command line, on a tiny model and a local server."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.table import Table

from outcrop import cli
from outcrop import config as configs
from outcrop.config import Statistic
from outcrop.report.console import console_statistics
from outcrop.results import Results
from outcrop.run import RunDirectory
from outcrop.schema import STATUSES, TABLES
from outcrop.stages import ORDER
from tests.llm_server import Completion, LLMServer, Status, by_hash
from tests.tiny import write_model
from tests.tiny_run import HOOKPOINTS, arguments, files, tables

N_LATENTS = 2 * 2 * 64  # hookpoints, layers, latents of a layer

TOGETHER = r'<tr class="sum"><th scope="row">together</th>.*?</tr>'

Inputs = tuple[Path, Path]


def snapshot(run: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but the lock and SQLite's own shared memory, with its time of writing."""
    return {
        str(path.relative_to(run)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.name.endswith(("-shm", "-wal"))
    }


def query(run: Path, sql: str) -> list[tuple[Any, ...]]:
    with Results(run / "results.sqlite", read_only=True) as results:
        columns = results.columns(sql)
    return list(zip(*columns.values(), strict=True))


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "report" / "summary.json").read_text(encoding="utf-8"))


def redone(out: str) -> list[str]:
    return re.findall(r"^(\w+): begun$", out, re.MULTILINE)


def equal_but_for_the_path(run: Path, other: Path) -> None:
    assert tables(run) == tables(other)
    assert files(run) == files(other)


# -- the whole road -----------------------------------------------------------------------------------------


def test_a_run_leaves_every_stage_complete_with_summary_and_page(finished: Path) -> None:
    marks = RunDirectory(finished).marks()
    assert list(marks) == list(ORDER)
    assert all(mark.complete for mark in marks.values())
    assert summary(finished)["version"] == 4
    assert "<html" in (finished / "report" / "index.html").read_text(encoding="utf-8")


def test_the_ledger_counts_every_latent_once_in_the_database_the_summary_and_the_page(finished: Path) -> None:
    counts = Counter(status for (status,) in query(finished, "SELECT status FROM ledger"))
    assert counts.total() == N_LATENTS
    ledger = summary(finished)["ledger"]
    assert ledger["n_latents"] == N_LATENTS
    assert ledger["counts"] == {status: counts.get(status, 0) for status in STATUSES}
    assert sum(sum(coder["counts"].values()) for coder in ledger["coders"]) == N_LATENTS
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    table = page[page.index("<caption>Latents per status</caption>") :]
    header, together = (re.search(pattern, table, re.DOTALL)[0] for pattern in (r"<thead>.*?</thead>", TOGETHER))
    names = re.findall(r"<th[^>]*>(.*?)</th>", header)
    cells = [int(cell.replace(",", "")) for cell in re.findall(r"<td>(.*?)</td>", together)]
    assert dict(zip(names[1:], cells, strict=True)) == ledger["counts"] | {"together": N_LATENTS}


def test_latents_of_every_layer_are_cached_counted_and_explained(finished: Path) -> None:
    fired = query(finished, "SELECT coder, layer, SUM(n_fired > 0) FROM latents GROUP BY coder, layer")
    assert [(layer, n > 0) for _, layer, n in fired] == [(0, True), (1, True)] * len(HOOKPOINTS)
    explained = query(
        finished,
        "SELECT l.coder, l.layer, COUNT(x.text) FROM latents l JOIN explanations x USING (coder, latent) GROUP BY 1, 2",
    )
    assert [(layer, n) for _, layer, n in explained] == [(0, 2), (1, 2)] * len(HOOKPOINTS)
    scored = query(finished, "SELECT coder, layer, COUNT(*) FROM ledger WHERE status = 'scored' GROUP BY coder, layer")
    assert [(layer, n) for _, layer, n in scored] == [(0, 2), (1, 2)] * len(HOOKPOINTS)


def test_no_window_and_no_document_shown_to_an_explainer_is_scored(finished: Path) -> None:
    examples = query(finished, "SELECT coder, latent, split, row, document FROM examples")
    for column in (3, 4):
        seen = {split: {(e[0], e[column]) for e in examples if e[2] == split} for split in ("explain", "score")}
        assert seen["explain"] and seen["score"]
        assert not seen["explain"] & seen["score"]


def test_a_second_identical_call_asks_nothing_and_writes_nothing(
    run: Path, inputs: Inputs, server: LLMServer, capfd: pytest.CaptureFixture[str]
) -> None:
    before, asked = snapshot(run), sum(server.asked.values())
    assert cli.main(["run", "--out", str(run), *arguments(*inputs, server.address)]) == 0
    assert redone(capfd.readouterr().err) == []
    assert sum(server.asked.values()) == asked
    assert snapshot(run) == before


def test_the_same_config_and_seed_give_the_same_files_and_tables_in_another_directory(
    tmp_path: Path, finished: Path
) -> None:
    """And so the config.yaml of a run repeats it."""
    other = tmp_path / "other"
    assert cli.main(["run", "--config", str(finished / "config.yaml"), "--out", str(other)]) == 0
    equal_but_for_the_path(other, finished)
    assert configs.load(other / "config.yaml") == configs.load(finished / "config.yaml")


def test_another_seed_gives_other_coders(tmp_path: Path, inputs: Inputs, finished: Path) -> None:
    other = tmp_path / "other"
    assert cli.main(["train", str(other), *arguments(*inputs, None, seed=1)]) == 0
    keys = {path.name: path for run in (finished, other) for path in (run / "coders").iterdir()}
    assert len(keys) == 4
    assert len({(path / "sae.safetensors").read_bytes() for path in keys.values()}) == 4


def test_the_stages_one_by_one_give_what_run_gives(
    tmp_path: Path, inputs: Inputs, server: LLMServer, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After the first, each takes its settings from the run directory."""
    other = tmp_path / "other"
    done: dict[str, list[str]] = {}
    for verb in ("train", "cache", "explain", "score", "report"):
        given = arguments(*inputs, server.address) if verb == "train" else []
        assert cli.main([verb, str(other), *given]) == 0
        done[verb] = redone(capfd.readouterr().err)
    assert done == {
        "train": ["tokens", "train"],
        "cache": ["cache"],
        "explain": ["examples", "explain"],
        "score": ["score"],
        "report": ["report"],
    }
    equal_but_for_the_path(other, finished)


def test_a_given_coder_is_not_trained_but_cached_explained_and_scored(
    tmp_path: Path, inputs: Inputs, server: LLMServer, finished: Path
) -> None:
    """The coders of an earlier run, each found by its key; on other text the latents fire about as often as there."""
    other = tmp_path / "other"
    given = arguments(*inputs, server.address, coder=finished / "coders")
    assert cli.main(["run", "--out", str(other), *given]) == 0
    assert not (other / "train").exists() and not (other / "metrics.jsonl").exists()
    assert not (other / "tokens" / "train.safetensors").exists()
    for coder in (finished / "coders").iterdir():
        assert (other / "coders" / coder.name / "sae.safetensors").read_bytes() == (
            coder / "sae.safetensors"
        ).read_bytes()
    rates = [[row[5] for row in tables(directory)["latents"]] for directory in (other, finished)]
    assert np.corrcoef(rates)[0, 1] > 0.95
    assert {row["trained_tokens"] for row in summary(other)["reconstruction"]} == {0}


def test_one_coder_may_be_given_by_its_own_directory(tmp_path: Path, inputs: Inputs, finished: Path) -> None:
    coder = next(path for path in (finished / "coders").iterdir() if "layers.0" in path.name)
    given = arguments(*inputs, None, coder=coder)
    given = [*given[: given.index("--hookpoints")], "--hookpoints", "model.layers.0"]
    assert cli.main(["cache", str(tmp_path / "other"), *given]) == 0
    assert [path.name for path in (tmp_path / "other" / "cache").iterdir()] == [coder.name]


# -- an LLM that misbehaves ----------------------------------------------------------------------------------


def faulty(text: str, completion: Completion) -> Callable[[dict[str, Any]], Completion]:
    """Answers with `completion` where the last message holds the text, and well elsewhere."""

    def answer(request: dict[str, Any]) -> Completion:
        return completion if text in request["messages"][-1]["content"] else by_hash(request)

    return answer


def failing_explainer(victims: int) -> Callable[[dict[str, Any]], Completion]:
    """Gives no text at all for the first explanations that it is asked for."""
    seen: list[str] = []

    def answer(request: dict[str, Any]) -> Completion:
        prompt = request["messages"][-1]["content"]
        if not request.get("logprobs") and (prompt in seen or len(seen) < victims):
            seen.append(prompt)
            return Completion("", None)
        return by_hash(request)

    return answer


def restarted(run: Path, stage: str) -> Path:
    """The run as it was before this stage."""
    RunDirectory(run).unmark(*ORDER[ORDER.index(stage) :])
    (run / "replies.sqlite").unlink()
    return run


def test_an_explainer_that_says_nothing_gives_failures_with_their_reason_never_explanations(
    run: Path, finished: Path
) -> None:
    with LLMServer(answer=failing_explainer(victims=3)) as bad:
        assert cli.main(["run", "--out", str(restarted(run, "explain")), "--judge", bad.address]) == 0
    rows = query(run, "SELECT text, failure, failure_detail FROM explanations")
    failed = [row for row in rows if row[1] is not None]
    assert len(rows) == len(query(finished, "SELECT text FROM explanations"))
    assert len(failed) == 3
    assert all(text is None and failure == "empty" and detail for text, failure, detail in failed)
    ledger = summary(run)["ledger"]
    assert ledger["counts"]["failed"] == 3
    assert sum(ledger["counts"].values()) == N_LATENTS
    assert sum(f["n"] for f in ledger["failures"]) == 3
    assert {(f["stage"], f["kind"]) for f in ledger["failures"]} == {("explain", "empty")}
    judged = query(
        run,
        "SELECT j.latent FROM judgements j JOIN explanations x USING (coder, latent) "
        "WHERE x.text IS NULL AND j.scorer != 'token_baseline'",
    )
    assert judged == []


def test_a_judge_that_answers_neither_yes_nor_no_gives_failed_latents_never_zeros(run: Path) -> None:
    def answer(request: dict[str, Any]) -> Completion:
        return Completion("Perhaps", {"Perhaps": 0.9}) if request.get("logprobs") else by_hash(request)

    with LLMServer(answer=answer) as bad:
        assert cli.main(["run", "--out", str(restarted(run, "score")), "--judge", bad.address]) == 0
    rows = query(run, "SELECT probability, predicted, failure FROM judgements WHERE scorer = 'detection'")
    assert rows and all(failure == "unreadable" for *_, failure in rows)
    with Results(run / "results.sqlite", read_only=True) as results:
        values = results._db.execute(
            "SELECT DISTINCT probability, predicted FROM judgements WHERE scorer = 'detection'"
        ).fetchall()
    assert values == [(None, None)]
    ledger = summary(run)["ledger"]
    assert ledger["counts"]["failed"] == 8 and ledger["counts"]["scored"] == 0
    assert {(f["stage"], f["kind"]) for f in ledger["failures"]} == {("score", "unreadable")}
    assert ledger["failed_judgements"]["n_failed"] == len(rows)
    assert ledger["failed_judgements"]["n_judgements"] == len(rows), "the baseline asks nobody"
    scores = pq.read_table(run / "report" / "scores.parquet")
    values = [name for name in scores.column_names if name.startswith("explanation.") and name.count(".") == 1]
    assert len(scores) and values
    assert all(value is None for name in values for value in scores[name].to_pylist())


def retried(run: Path, *verb: str) -> list[dict[str, Any]]:
    """What a good judge is asked by --retry-failed."""
    with LLMServer() as good:
        assert cli.main([*(verb or ("run",)), "--out", str(run), "--judge", good.address, "--retry-failed"]) == 0
        return [json.loads(body) for body in good.asked]


def test_explanations_that_failed_are_asked_for_again_when_that_is_wanted_and_the_others_are_not(
    run: Path, server: LLMServer, finished: Path
) -> None:
    with LLMServer(answer=failing_explainer(victims=3)) as bad:
        assert cli.main(["run", "--out", str(restarted(run, "explain")), "--judge", bad.address]) == 0
        n_asked = sum(bad.asked.values())
        assert cli.main(["run", "--out", str(run)]) == 0
        assert sum(bad.asked.values()) == n_asked, "without the flag nothing is asked again"
    asked_again = retried(run)
    assert sum(not body.get("logprobs") for body in asked_again) == 3
    assert len(asked_again) < len(server.asked)
    assert tables(run) == tables(finished)
    assert files(run) == files(finished)


def test_a_budget_that_is_spent_again_is_the_one_that_stays(run: Path) -> None:
    with LLMServer() as server:
        for most in (2, 3):
            flags = ("--judge", server.address, "--judge.max-requests", str(most))
            started = restarted(run, "explain") if most == 2 else run
            assert cli.main(["explain", "--out", str(started), *flags]) == 2
            assert configs.load(run / "config.yaml").judge.max_requests == most


def test_judgements_that_failed_are_asked_for_again_alone(
    run: Path, server: LLMServer, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with LLMServer([Status(403)] * 5) as bad:
        assert cli.main(["run", "--out", str(restarted(run, "score")), "--judge", bad.address]) == 0
    assert summary(run)["ledger"]["failed_judgements"]["n_failed"] >= 5
    assert "--retry-failed" in capfd.readouterr().out
    assert retried(run, "explain") == [], "no explanation failed"
    assert len(retried(run, "score")) == 5
    assert not (run / "report").exists(), "it was of other scores"
    assert redone(capfd.readouterr().err) == ["score"]
    assert cli.main(["run", "--out", str(run), "--judge", server.address]) == 0
    assert tables(run) == tables(finished)


def test_a_failure_that_was_answered_since_is_mended_without_asking(run: Path, finished: Path) -> None:
    with closing(sqlite3.connect(run / "results.sqlite")) as db, db:
        first = "SELECT MIN(request) FROM judgements WHERE scorer = 'detection'"
        late = "failure = 'timeout', failure_detail = 'late', probability = NULL, predicted = NULL"
        db.execute(f"UPDATE judgements SET {late} WHERE request = ({first})")
    assert tables(run) != tables(finished)
    assert retried(run) == []
    assert tables(run) == tables(finished)


def test_windows_of_another_version_are_not_judged_as_ours(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(run / "results.sqlite")) as db, db:
        db.execute("UPDATE examples SET row = row + 1 WHERE example = 0")
    RunDirectory(run).unmark("report")
    assert cli.main(["run", "--out", str(run)]) == 2
    assert "holds other windows than are drawn now" in capfd.readouterr().err


def test_statistics_go_with_the_windows_that_they_count(run: Path, server: LLMServer) -> None:
    assert cli.main(["stats", str(run)]) == 0
    more = ["--judge", server.address, "--fresh"]
    assert cli.main(["run", "--out", str(run), *more, "--score.controls", "none"]) == 0
    assert RunDirectory(run).statistics.exists()
    assert cli.main(["run", "--out", str(run), *more, "--select.n-latents", "3"]) == 0
    assert not RunDirectory(run).statistics.exists()


def test_a_reply_that_could_not_be_read_stays_the_answer_and_is_not_asked_for_again(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(request: dict[str, Any]) -> Completion:
        return Completion("Perhaps", {"Perhaps": 0.9}) if request.get("logprobs") else Completion("...", None)

    with LLMServer(answer=answer) as bad:
        assert cli.main(["run", "--out", str(restarted(run, "explain")), "--judge", bad.address]) == 0
    assert {kind for (kind,) in query(run, "SELECT failure FROM explanations")} == {"empty"}
    before = tables(run)
    capfd.readouterr()
    assert retried(run) == []
    assert redone(capfd.readouterr().err) == []
    RunDirectory(run).unmark("explain", "score", "report")
    assert retried(run) == [], "not even when the stage is done again"
    assert tables(run) == before


def test_retrying_is_refused_before_anything_is_changed_where_settings_are_others(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with LLMServer(answer=failing_explainer(victims=3)) as bad:
        assert cli.main(["run", "--out", str(restarted(run, "explain")), "--judge", bad.address]) == 0
        before = snapshot(run)
        assert cli.main(["run", "--out", str(run), "--retry-failed", "--report.confidence", "0.9"]) == 2
    assert "report.confidence was 0.95, is 0.9" in capfd.readouterr().err
    assert snapshot(run) == before


# -- what is stale -------------------------------------------------------------------------------------------

CHANGES = [
    (["--text.context-tokens", "40"], "tokens", "text.context-tokens was 48, is 40"),
    (["--seed", "3"], "tokens", "seed was 0, is 3"),
    (["--train.tokens", "3500"], "tokens", "train.tokens was 4000, is 3500"),
    (["--cache.tokens", "5000"], "tokens", "cache.tokens was 6000, is 5000"),
    (["--coder.k", "5"], "train", "coder.k was 4, is 5"),
    (["--train.lr", "0.01"], "train", "train.lr was None, is 0.01"),
    (["--hookpoints", "model.layers.0"], "train", "hookpoints was model.layers.0 model.layers.1, is model.layers.0"),
    (["--cache.shard-tokens", "2000"], "cache", "cache.shard-tokens was 1000, is 2000"),
    (["--cache.window-tokens", "6"], "examples", "cache.window-tokens was 8, is 6"),
    (["--select.n-latents", "6"], "examples", "select.n-latents was 4, is 6"),
    (["--examples.score-random", "5"], "examples", "examples.score-random was 6, is 5"),
    (["--explain.max-tokens", "20"], "explain", "explain.max-tokens was 32, is 20"),
    (["--score.controls", "none"], "score", "score.controls was none other, is none"),
    (["--report.confidence", "0.9"], "report", "report.confidence was 0.95, is 0.9"),
]


@pytest.mark.parametrize(("change", "first", "reason"), CHANGES, ids=[change[0][2:] for change, _, _ in CHANGES])
def test_a_changed_setting_is_refused_with_the_stages_that_it_makes_stale_and_nothing_is_changed(
    change: list[str], first: str, reason: str, run: Path, server: LLMServer, capfd: pytest.CaptureFixture[str]
) -> None:
    before, asked = snapshot(run), sum(server.asked.values())
    assert cli.main(["run", "--out", str(run), *change]) == 2
    message = capfd.readouterr().err
    stale = ORDER[ORDER.index(first) :]
    assert f"{first} ({reason})" in message and "--fresh" in message
    assert re.findall(r"(\w+) \(", message) == list(stale)
    assert snapshot(run) == before
    assert sum(server.asked.values()) == asked


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (["--seed", "3"], "tokens"),
        (["--coder.k", "5"], "train"),
        (["--cache.shard-tokens", "2000"], "cache"),
        (["--select.n-latents", "6"], "examples"),
        (["--explain.max-tokens", "20"], "explain"),
        (["--score.controls", "none"], "score"),
        (["--report.confidence", "0.9"], "report"),
    ],
    ids=["tokens", "train", "cache", "examples", "explain", "score", "report"],
)
def test_fresh_makes_anew_the_stale_stages_and_no_others(
    change: list[str], first: str, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And what comes out is what a new directory with these settings would hold."""
    assert cli.main(["run", "--out", str(run), *change, "--fresh"]) == 0
    assert redone(capfd.readouterr().err) == list(ORDER[ORDER.index(first) :])
    anew = tmp_path / "anew"
    assert cli.main(["run", "--config", str(run / "config.yaml"), "--out", str(anew)]) == 0
    equal_but_for_the_path(run, anew)


def test_a_coder_that_takes_the_place_of_training_and_the_other_way_make_the_text_anew(
    run: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A given coder needs no text for training."""
    assert cli.main(["cache", str(run), "--coder", str(finished / "coders"), "--fresh"]) == 0
    assert redone(capfd.readouterr().err) == ["tokens", "train", "cache"]
    assert not (run / "tokens" / "train.safetensors").exists()
    assert cli.main(["run", "--out", str(run), "--coder", "None", "--fresh"]) == 0
    equal_but_for_the_path(run, finished)


def test_another_model_is_refused_by_its_name(
    run: Path, tmp_path: Path, inputs: Inputs, server: LLMServer, capfd: pytest.CaptureFixture[str]
) -> None:
    other, before = write_model(tmp_path / "another", seed=1), snapshot(run)
    assert cli.main(["run", "--out", str(run), *arguments(other, inputs[1], server.address)]) == 2
    assert f"model was {inputs[0]}, is {other}" in capfd.readouterr().err
    assert snapshot(run) == before


def test_another_address_of_the_same_served_model_makes_nothing_stale(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with LLMServer() as other:
        assert cli.main(["run", "--out", str(run), "--judge", other.address]) == 0
        assert not other.asked
    assert redone(capfd.readouterr().err) == []


def test_another_served_model_makes_explaining_and_scoring_stale(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = snapshot(run)
    with LLMServer(model="large-judge") as other:
        assert cli.main(["run", "--out", str(run), "--judge", other.address]) == 2
        message = capfd.readouterr().err
        assert re.findall(r"(\w+) \(", message) == ["explain", "score", "report"]
        assert "its judge was small-judge, is large-judge" in message
        assert snapshot(run) == before
        assert cli.main(["run", "--out", str(run), "--judge", other.address, "--fresh"]) == 0
        assert other.asked
    assert redone(capfd.readouterr().err) == ["explain", "score", "report"]


def test_another_explainer_makes_explaining_stale_and_scoring_only_because_of_it(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with LLMServer(model="large-judge") as other:
        assert cli.main(["run", "--out", str(run), "--explainer", other.address]) == 2
    message = capfd.readouterr().err
    assert "explain (its explainer was small-judge, is large-judge)" in message
    assert "score (because of explain)" in message


def test_another_judge_makes_iterative_explanations_stale(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LLMServer(model="small-judge") as explainer, LLMServer(model="large-judge") as judge:
        iterative = ["run", str(run), "--explain.explainers", "iterative", "--explainer", explainer.address]
        assert cli.main([*iterative, "--fresh"]) == 0
        assert cli.main([*iterative, "--judge", judge.address]) == 2
    assert "explain (its judge was small-judge, is large-judge)" in capfd.readouterr().err


def test_every_table_of_the_results_has_rows(finished: Path) -> None:
    found = tables(finished)
    assert all(found[name] for name in TABLES if name != "relations")  # which only bands have


# -- the cache: more of it, and what it says -----------------------------------------------------------------


def test_a_larger_cache_keeps_coders_and_shards_and_equals_one_that_was_large_from_the_start(
    run: Path, tmp_path: Path, inputs: Inputs, server: LLMServer, capfd: pytest.CaptureFixture[str]
) -> None:
    grown = ["cache", str(run), "--cache.tokens", "9000"]
    assert cli.main(grown) == 2, "what was made of the smaller cache would be lost"
    message = capfd.readouterr().err
    assert "examples (because the cache grows)" in message and "train (" not in message
    shards = {path: path.stat().st_mtime_ns for path in sorted((run / "cache").rglob("shard_*"))}
    assert cli.main([*grown, "--fresh"]) == 0
    message = capfd.readouterr().err
    assert redone(message) == [] and "train: complete" in message and "cache: going on" in message
    last = max(path.name for path in shards)
    assert all(path.stat().st_mtime_ns == then for path, then in shards.items() if path.name != last)
    assert cli.main(["run", str(run)]) == 0
    whole = tmp_path / "whole"
    assert cli.main(["run", str(whole), *arguments(*inputs, server.address, cache__tokens=9_000)]) == 0
    assert tables(run) == tables(whole)
    assert files(run) == files(whole)


def test_a_cache_grows_beside_another_change_and_before_it_is_there(
    tmp_path: Path, inputs: Inputs, server: LLMServer, capfd: pytest.CaptureFixture[str]
) -> None:
    new, whole = tmp_path / "new", tmp_path / "whole"
    assert cli.main(["train", str(new), *arguments(*inputs, server.address)]) == 0
    assert cli.main(["train", str(new), "--cache.tokens", "8000"]) == 0, "nothing is stale"
    assert "train: complete" in capfd.readouterr().err
    assert cli.main(["run", str(new)]) == 0
    assert cli.main(["run", str(new), "--cache.tokens", "9000", "--cache.shard-tokens", "2000", "--fresh"]) == 0
    same = arguments(*inputs, server.address, cache__tokens=9_000, cache__shard_tokens=2_000)
    assert cli.main(["run", str(whole), *same]) == 0
    assert tables(new) == tables(whole)
    assert files(new) == files(whole)


def test_a_cache_does_not_grow_over_a_text_that_is_another_or_too_short(
    run: Path, inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(run)
    assert cli.main(["cache", str(run), "--cache.tokens", "10000000", "--fresh"]) == 2
    assert "10,004,500 are wanted" in capfd.readouterr().err
    assert snapshot(run) == before
    text = inputs[1].read_text()
    try:
        inputs[1].write_text("\n".join(reversed(text.splitlines())) + "\n")
        assert cli.main(["cache", str(run), "--cache.tokens", "9000", "--fresh"]) == 2
    finally:
        inputs[1].write_text(text)
    assert "is not the text that" in capfd.readouterr().err
    assert snapshot(run) == before


def test_the_cache_is_verified_and_a_damaged_shard_is_named_and_made_anew_when_it_is_removed(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["cache", str(run), "--verify"]) == 0
    assert "shards are as they were written" in capfd.readouterr().err
    shard = sorted((run / "cache").rglob("shard_*"))[-1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    assert cli.main(["cache", str(run), "--verify"]) == 2
    assert str(shard) in capfd.readouterr().err
    shard.unlink()
    assert cli.main(["cache", str(run)]) == 0
    assert shard.read_bytes() == whole
    assert cli.main(["cache", str(run), "--verify"]) == 0


def test_what_was_never_cached_cannot_be_verified(
    tmp_path: Path, inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert cli.main(["train", str(new), *arguments(*inputs, None)]) == 0
    assert cli.main(["cache", str(new), "--verify"]) == 2
    assert "nothing is cached" in capfd.readouterr().err


def test_the_statistics_of_every_latent_are_shown_and_kept(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["stats", str(run), "--sort", "max_activation", "--top", "5", "--neighbours", "jaccard", "decoder"]
    assert cli.main(command) == 0
    assert "set off by" in capfd.readouterr().out
    table = pq.read_table(run / "statistics.parquet")
    assert len(table) == N_LATENTS and table["decoder_neighbours"].null_count == 0
    by_latent = {(row[0], row[1]): row for row in tables(run)["latents"]}
    for row in table.to_pylist():
        assert by_latent[row["coder"], row["latent"]][4:6] == (row["n_fired"], row["n_windows"])
    fired = sorted((row for row in table.to_pylist() if row["n_fired"]), key=lambda row: row["max_activation"])
    for ascending, expected in ((True, fired[:5]), (False, fired[:-6:-1])):
        shown = console_statistics(table, "max_activation", ascending=ascending, top=5)
        assert isinstance(shown, Table)
        (latents,) = (column for column in shown.columns if column.header == "latent")
        assert [*latents.cells] == [str(row["latent"]) for row in expected]
    assert {f.name for f in table.schema if pa.types.is_primitive(f.type)} == {*get_args(Statistic)}
    with pytest.raises(SystemExit, match="2"):
        cli.main(["stats", str(run), "--sort", "colour"])
    assert "context_dependence" in capfd.readouterr().err
    assert cli.main(["stats", str(run), "--top", "0"]) == 2
    assert "--top is 0; it must be at least 1" in capfd.readouterr().err


def test_a_run_compared_with_itself_is_only_read_and_does_not_differ(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(finished)
    assert cli.main(["compare", str(finished), str(finished), "--to", str(tmp_path / "comparison.json")]) == 0
    assert snapshot(finished) == before
    assert "latent by latent, over 2 coders that are the same" in " ".join(capfd.readouterr().out.split())
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert all(of["difference"]["value"] in (0, None) for of in comparison["explainers"][0]["metrics"].values())


def test_what_has_no_scores_cannot_be_compared(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(finished), str(tmp_path / "nothing")]) == 2
    assert "there is no run directory" in capfd.readouterr().err
    assert cli.main(["compare", str(finished), str(finished), "--to", str(tmp_path / "no" / "file")]) == 2
    assert "expected a file in a folder that exists" in capfd.readouterr().err


def test_the_numbers_of_some_latents_are_told_and_kept(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(run), "--where.layers", "1"]) == 0
    assert "of the latents with layers 1 alone" in " ".join(capfd.readouterr().out.split())
    told = json.loads((run / "report" / "where.json").read_text())
    assert told["where"] == "layers 1"
    assert {layer["layer"] for coder in told["ledger"]["coders"] for layer in coder["layers"]} == {1}
    assert told["ledger"]["n_latents"] == N_LATENTS // 2
    assert cli.main(["report", str(run), "--where.layers", "9"]) == 2
    assert "there is no latent with layers 9" in capfd.readouterr().err
    assert not (run / "report" / "where.json").exists(), "it would be taken for these latents"


def test_a_report_that_is_lost_is_made_again(run: Path) -> None:
    before = summary(run)
    shutil.rmtree(run / "report")
    assert cli.main(["report", str(run)]) == 0
    assert summary(run) == before
