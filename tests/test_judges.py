"""Budgets and shared replies through the command line, on a tiny model and local servers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from outcrop import cli
from tests.llm_server import LLMServer
from tests.tiny_run import arguments, files, tables

Inputs = tuple[Path, Path]


def resume(run: Path, *settings: str) -> int:
    return cli.main(["run", "--out", str(run), *settings])


def test_a_budget_ends_a_run_and_the_same_command_goes_on_where_it_ended(
    tmp_path: Path, inputs: Inputs, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with LLMServer() as first, LLMServer() as second:
        both = f"{first.address},{second.address}"
        priced = ["--judge.prices", "small-judge=100/100", "--judge.max-requests", "150"]
        statuses = [resume(run, *arguments(*inputs, both), *priced)]
        assert "--judge.max-requests is 150, and 150 requests for US$ 0.195" in capfd.readouterr().err
        while statuses[-1] == 2 and len(statuses) < 10:
            statuses.append(resume(run, *priced))
        asked = first.asked + second.asked
    assert statuses[-1] == 0 and len(statuses) == -(-asked.total() // 150) and set(asked.values()) == {1}
    assert first.asked and second.asked
    assert tables(run) == tables(finished) and files(run) == files(finished)
    (row,) = sqlite3.connect(run / "replies.sqlite").execute("SELECT COUNT(*), SUM(cost) FROM replies")
    assert row == (asked.total(), pytest.approx(asked.total() * 13 * 1e-4))


def test_runs_that_share_a_file_of_replies_ask_nothing_twice(tmp_path: Path, inputs: Inputs) -> None:
    shared = ["--judge.replies", str(tmp_path / "replies")]
    with LLMServer() as server:
        for name in ("a", "b"):
            assert resume(tmp_path / name, *arguments(*inputs, server.address), *shared) == 0
        assert set(server.asked.values()) == {1}
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert not list(tmp_path.glob("*/replies.sqlite"))
