"""Explaining and scoring through the command line: every explainer and scorer, other explanations, dry runs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outcrop import cli
from outcrop.config import load
from outcrop.pipeline import Run
from outcrop.results import Results
from tests.llm_server import Completion, LLMServer, talkative

Inputs = tuple[Path, Path]


def counted(run: Path, sql: str) -> Counter[Any]:
    with Results(run / "results.sqlite", read_only=True) as results:
        columns = results.columns(sql)
    return Counter(zip(*columns.values(), strict=True))


def test_every_explainer_and_scorer_goes_the_whole_road(
    finished: Path, tmp_path: Path, run_cli: Callable[..., str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    explainers = ["default", "contrastive", "bands", "output", "iterative", "single_token", "token_rule"]
    scorers = ["detection", "fuzzing", "intruder", "simulation"]
    with LLMServer(answer=talkative) as server:
        flags = ["--judge", server.address, "--fresh", "--score.intruder-windows", "3", "--score.tell-base-rate"]
        flags.append("--score.relate")
        out = run_cli("run", run, *flags, "--explain.explainers", *explainers, "--score.scorers", *scorers)
    by_explainer = counted(run, "SELECT explainer, source FROM explanations")
    n_latents = by_explainer["contrastive", "all"]
    assert {name for name, _ in by_explainer} == {*explainers}
    assert {source for name, source in by_explainer if name == "bands"} == {"low", "middle", "high"}
    assert set(by_explainer.values()) == {n_latents}
    judged = counted(run, "SELECT scorer, arm FROM judgements WHERE failure IS NULL")
    assert {scorer for scorer, _ in judged} == {*scorers, "misplaced", "token_baseline"}
    assert {arm for scorer, arm in judged if scorer == "detection"} == {"plain", "none", "other", "base_rate"}
    assert counted(run, "SELECT status FROM ledger")["scored",] == n_latents
    summary = json.loads((run / "report" / "summary.json").read_text())
    told = {(row["scorer"], row["explainer"], row["arm"]) for row in summary["scores"]["scorers"]}
    assert ("simulation", "iterative", "other") in told
    assert ("intruder", "", "plain") in told
    assert "simulation" in out
    assert counted(run, "SELECT first, second, relation FROM relations") == {
        (first, second, "broader"): n_latents
        for first, second in (("low", "middle"), ("low", "high"), ("middle", "high"))
    }
    (bands,) = summary["scores"]["bands"]
    assert bands["n"] == n_latents and bands["relations"]["low.high"]["broader"] == n_latents
    assert {arm["arm"] for arm in summary["scores"]["calibration"]} == {"plain", "base_rate"}
    page = (run / "report" / "index.html").read_text()
    assert "Every scorer, explainer and control" in page


def test_a_dry_run_counts_what_is_then_asked(finished: Path, tmp_path: Path, run_cli: Callable[..., str]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for file in run.glob("replies.sqlite*"):
        file.unlink()
    with LLMServer() as server:
        flags = ["--judge", server.address, "--fresh", "--explain.max-tokens", "31", "--score.controls", "none"]
        out = run_cli("score", run, *flags, "--dry-run")
        assert not server.asked
        assert "To be asked" in out
        first = run_cli("explain", run, *flags)
        config = load(run / "config.yaml")
        n_explained = len(server.asked)
        left = Run(config, run).would_ask("score")
        assert "explain: begun" in first
        run_cli("score", run, *flags)
    known = [run, "--judge.model", "small-judge", "--score.controls", "other", "--fresh", "--dry-run"]
    assert "small-judge" in run_cli("score", *known, "--judge", server.address), "the server is gone, and not needed"
    assert "explain" not in left, "nothing of it is left to ask"
    assert left["score"].requests == len(server.asked) - n_explained > 0
    assert re.search(rf"explain +small-judge +{n_explained} ", out)
    told = re.search(r"score +small-judge +([\d,]+) ", out)
    assert told is not None
    assert int(told[1].replace(",", "")) >= left["score"].requests, "no two explanations are taken to be alike"
    with LLMServer() as server:
        flags[1] = server.address
        out = run_cli("score", run, *flags, "--explain.explainers", "default", "contrastive", "--dry-run")
    told = re.search(r"explain +small-judge +([\d,]+) ", out)
    assert told is not None and int(told[1]) == n_explained, "of both, what contrastive has answers to is not counted"


def test_explanations_of_others_are_scored_without_an_explainer(
    finished: Path, tmp_path: Path, run_cli: Callable[..., str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (coder, latent), *_ = counted(run, "SELECT coder, latent FROM latents WHERE selection_probability IS NOT NULL")
    file = tmp_path / "others.jsonl"
    file.write_text(
        json.dumps({"coder": coder, "latent": int(latent), "text": "names of fruit", "explainer": "people"})
    )
    with LLMServer() as server:
        flags = ["--judge", server.address, "--fresh", "--explain.explainers", "--score.explanations", str(file)]
        run_cli("score", run, *flags)
        assert server.asked
    assert counted(run, "SELECT explainer, text FROM explanations") == Counter({("people", "names of fruit"): 1})
    assert {name for (name,) in counted(run, "SELECT explainer FROM judgements WHERE arm = 'plain'")} == {"people", ""}


def test_a_bad_file_of_explanations_is_told_and_no_judgement_is_lost(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "others.jsonl"
    judged = "SELECT scorer, arm, COUNT(*) FROM judgements GROUP BY 1, 2"
    before, marks = counted(run, judged), run / "manifest.json"
    complete = marks.read_bytes()
    (coder, latent), *_ = counted(run, "SELECT coder, latent FROM latents WHERE selection_probability IS NULL")
    with LLMServer() as server:
        for line, words in (
            ("{", "line 1 is '{'"),
            (json.dumps({"coder": coder, "latent": int(latent), "text": "fruit"}), "was not selected"),
        ):
            file.write_text(line)
            flags = ["--judge", server.address, "--fresh", "--score.explanations", str(file)]
            assert cli.main(["score", str(run), *flags]) == 2
            assert words in capsys.readouterr().err
            assert counted(run, judged) == before
            assert (run / "report" / "index.html").exists()
            assert marks.read_bytes() == complete
        assert not server.asked


def test_a_stage_ends_with_what_failed(finished: Path, tmp_path: Path, run_cli: Callable[..., str]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    with LLMServer(answer=lambda request: Completion("perhaps", None)) as server:
        told = run_cli("score", run, "--judge", server.address, "--fresh", "--explain.explainers", "token_rule")
    kinds = counted(run, "SELECT COALESCE(failure, '') FROM judgements GROUP BY latent, example, scorer, arm")
    failed = kinds["unreadable",]
    assert {*kinds} == {("",), ("unreadable",)}
    assert f"{failed:,} of {kinds.total():,} judgements failed: unreadable {failed:,}" in " ".join(told.split())


def test_without_questions_no_judge_is_needed(finished: Path, tmp_path: Path, run_cli: Callable[..., str]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    run_cli("report", run, "--fresh", "--explain.explainers", "token_rule", "--score.scorers")
    assert counted(run, "SELECT explainer FROM explanations").keys() == {("token_rule",)}


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(verb: str, run: Path, *flags: str) -> str:
        status = cli.main([verb, str(run), *flags])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out + printed.err

    return call


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_waits_for_answers_can_be_stopped_and_says_how_to_go_on(
    finished: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """The answers would take a minute."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for file in run.glob("replies.sqlite*"):
        file.unlink()
    with LLMServer(delay_seconds=60.0) as server:
        command = [sys.executable, "-m", "outcrop", "score", str(run), "--judge", server.address, "--fresh"]
        process = subprocess.Popen(
            [*command, "--score.controls", "none"],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
        deadline = time.monotonic() + 120
        while not server.asked and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.asked
        start = time.monotonic()
        process.send_signal(sent)
        _, told = process.communicate(timeout=30)
        assert time.monotonic() - start < 20
    assert process.returncode == 130
    assert "The same command goes on from here" in told
