from __future__ import annotations

from pathlib import Path

import pytest

from outcrop.interp.clients.client import Client
from outcrop.interp.clients.counting import DRY_RUN, CountingClient
from outcrop.replies import Replies
from outcrop.types import Failure, Message, Reply, Request


def ask(text: str, *labels: str) -> Request:
    return Request((Message("system", "four"), Message("user", text)), 32, labels)


@pytest.fixture
def replies(tmp_path: Path) -> Replies:
    return Replies(tmp_path / "r")


def test_every_request_fails_as_a_dry_run_and_is_counted(replies: Replies) -> None:
    client = CountingClient("m", replies)
    found = list(client.answer([ask("x" * 36), ask("x" * 76, "yes", "no")]))
    assert isinstance(client, Client) and found == [(i, Failure("input", DRY_RUN)) for i in range(2)]
    assert (client.requests, client.prompt_tokens, client.most_completion_tokens) == (2, 10 + 20 + 4 * 6, 32 + 1)


def test_what_has_an_answer_or_comes_again_is_not_counted(replies: Replies) -> None:
    asked = [ask("answered"), ask("failed"), ask("new"), ask("new")]
    answers = (Reply("word", None, 1, 1, 0.0), Failure("timeout", "late"))
    replies.add_many([(one.hash("m"), "m", one, answer) for one, answer in zip(asked, answers, strict=False)])
    client = CountingClient("m", replies)
    for _ in range(2):
        found = [answer for _, answer in client.answer(asked)]
        assert found[0] == answers[0] and found[1:] == [Failure("input", DRY_RUN)] * 3
    assert client.requests == 2
    other = CountingClient("another model", replies)
    list(other.answer(asked))
    assert other.requests == 3
