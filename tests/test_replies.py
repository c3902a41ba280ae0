from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from outcrop.errors import CorruptError, RunError
from outcrop.interp.clients.client import RememberingClient
from outcrop.replies import Replies
from outcrop.types import Failure, Message, Reply, Request

ANSWER = Reply("Yes", (0.7, 0.2), 30, 1, 0.5)


def ask(text: str) -> Request:
    return Request((Message("user", "the same long instructions"), Message("user", text)), 1, ("yes", "no"))


def add(replies: Replies, request: Request, answer: Reply | Failure) -> None:
    replies.add_many([(request.hash("m"), "m", request, answer)])


class Counting:
    """Answers everything, last request first, and counts."""

    model = "m"

    def __init__(self) -> None:
        self.sent: list[Request] = []

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        for index in reversed(range(len(requests))):
            self.sent.append(requests[index])
            yield index, Reply(requests[index].messages[-1].content, None, 1, 1, 0.0)


def test_a_reply_comes_back_as_it_was(tmp_path: Path) -> None:
    with Replies(tmp_path / "r") as replies:
        add(replies, ask("a"), ANSWER)
    with Replies(tmp_path / "r") as replies:
        assert replies.get(ask("a").hash("m")) == ANSWER
        assert replies.get(ask("a").hash("another model")) is None


def test_the_whole_prompt_can_be_shown_and_its_long_part_is_stored_once(tmp_path: Path) -> None:
    with Replies(tmp_path / "r") as replies:
        for text in "abc":
            add(replies, ask(text), ANSWER)
        assert replies.prompt(ask("b").hash("m")) == ask("b").messages
    assert sqlite3.connect(tmp_path / "r").execute("SELECT COUNT(*) FROM parts").fetchone() == (4,)


def test_a_failure_gives_way_to_an_answer_and_an_answer_to_nothing(tmp_path: Path) -> None:
    with Replies(tmp_path / "r") as replies:
        add(replies, ask("a"), Failure("timeout", "late"))
        assert replies.get(ask("a").hash("m")) is None
        for later in (ANSWER, Failure("timeout", "late"), Reply("No", None, 0, 0, 0.0)):
            add(replies, ask("a"), later)
            assert replies.get(ask("a").hash("m")) == ANSWER


def test_answers_as_long_as_they_might_be_are_counted_as_cut_off(tmp_path: Path) -> None:
    with Replies(tmp_path / "r") as replies:
        whole, cut, failed = (replace(ask(text), max_tokens=5) for text in "abc")
        add(replies, whole, replace(ANSWER, completion_tokens=4))
        add(replies, cut, replace(ANSWER, completion_tokens=5))
        add(replies, failed, Failure("timeout", "late"))
        assert replies.cut_off([one.hash("m") for one in (whole, cut, failed, ask("never"))]) == 1


def test_the_schema_and_the_cost_of_a_request_stand_beside_it(tmp_path: Path) -> None:
    priced = replace(ANSWER, cost=0.25)
    with Replies(tmp_path / "r") as replies:
        add(replies, replace(ask("a"), schema='{"type": "array"}'), priced)
        add(replies, ask("a"), ANSWER)
        assert replies.get(replace(ask("a"), schema='{"type": "array"}').hash("m")) == priced
    rows = sqlite3.connect(tmp_path / "r").execute("SELECT schema, cost FROM replies ORDER BY cost").fetchall()
    assert rows == [(None, None), ('{"type": "array"}', 0.25)]


def test_expected_numbers_are_kept_with_the_answer(tmp_path: Path) -> None:
    asked, said = replace(ask("a"), numbers_up_to=10), replace(ANSWER, expected_numbers=(0.25, 9.5))
    with Replies(tmp_path / "r") as replies:
        add(replies, asked, said)
        assert replies.get(asked.hash("m")) == said
        assert replies.get(ask("a").hash("m")) is None


def test_what_cannot_be_a_file_of_replies_is_refused_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "r"):
        with pytest.raises(RunError, match=f"{path} cannot be opened.*a folder that exists"):
            Replies(path)


def test_another_schema_and_another_file_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version = 99")
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(CorruptError, match="schema version 99, expected 3"):
        Replies(tmp_path / "newer")
    with pytest.raises(CorruptError, match="not a database"):
        Replies(tmp_path / "text")


def test_no_answered_request_is_sent_twice(tmp_path: Path) -> None:
    requests = [ask(text) for text in "abcab"]
    with Replies(tmp_path / "r") as replies:
        first, second = Counting(), Counting()
        for client in (first, second):
            found = dict(RememberingClient(client, replies).answer(requests))
            assert [found[i].text for i in range(5)] == list("abcab")  # type: ignore[union-attr]
    assert len(first.sent) == 3 and second.sent == []


def test_every_answer_is_committed_before_it_is_given_on(tmp_path: Path) -> None:
    with Replies(tmp_path / "r") as replies:
        found = RememberingClient(Counting(), replies).answer([ask(text) for text in "abc"])
        for n in (1, 2, 3):
            next(found)
            assert sqlite3.connect(tmp_path / "r").execute("SELECT COUNT(*) FROM replies").fetchone() == (n,)


WRITER = """
import sys
from outcrop.replies import Replies
from tests.test_replies import ANSWER, add, ask
with Replies(sys.argv[1]) as replies:
    for i in range(int(sys.argv[3])):
        add(replies, ask(f"{sys.argv[2]} {i}"), ANSWER)
        print(i, flush=True)
"""


def writer(path: Path, name: str, n: int) -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    arguments = [sys.executable, "-c", WRITER, str(path), name, str(n)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)


def test_several_processes_write_one_file_and_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "r"
    steady, killed = writer(path, "steady", 150), writer(path, "killed", 1_000_000)
    assert killed.stdout
    for _ in range(100):
        last = killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    assert steady.communicate()[0].splitlines()[-1] == "149"
    with Replies(path) as replies:
        assert all(replies.get(ask(f"killed {i}").hash("m")) for i in range(int(last) + 1))
        assert all(replies.get(ask(f"steady {i}").hash("m")) for i in range(150))
    killed.wait()
