from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from outcrop.config import JudgeConfig
from outcrop.errors import JudgeError
from outcrop.interp.clients.client import RememberingClient, connect
from outcrop.interp.clients.openai import OpenAIClient, read_completion
from outcrop.interp.clients.server import Outcome, Server
from outcrop.replies import Replies
from outcrop.types import Failure, Message, Reply, Request
from tests.llm_server import (
    NO_CHOICES,
    NOT_JSON,
    Body,
    Closed,
    Completion,
    Fault,
    LLMServer,
    RateLimit,
    Says,
    Silence,
    Status,
)


def ask(text: str, *labels: str) -> Request:
    return Request((Message("user", text),), 8, labels)


def answers(client: OpenAIClient, *requests: Request) -> list[Reply | Failure]:
    return [answer for _, answer in sorted(client.answer(requests), key=lambda answer: answer[0])]


def test_the_first_served_model_is_taken_and_names_the_client(quick: JudgeConfig) -> None:
    with LLMServer(model="first") as server:
        assert OpenAIClient(server.address, None, quick).model == "first"


def test_every_request_is_answered_once_and_as_many_run_at_once_as_allowed(quick: JudgeConfig) -> None:
    requests = [ask(str(i)) for i in range(40)]
    with LLMServer(delay_seconds=0.02) as server:
        found = list(OpenAIClient(server.address, None, quick).answer(requests))
        assert sorted(index for index, _ in found) == list(range(40))
        assert set(server.asked.values()) == {1} and server.most_at_once == quick.concurrency


def test_a_labels_probability_is_summed_over_case_and_space(quick: JudgeConfig) -> None:
    tokens = {"Yes": 0.2, " yes": 0.1, "YES": 0.05, "No": 0.25, "Yesterday": 0.3}
    with LLMServer(answer=lambda _: Completion("Yes", tokens)) as server:
        (reply,) = answers(OpenAIClient(server.address, None, quick), ask("?", "yes", "no"))
    assert isinstance(reply, Reply) and reply.label_probabilities == pytest.approx((0.35, 0.25))


def test_a_server_without_logprobs_gives_text_only(quick: JudgeConfig) -> None:
    with LLMServer([Says("Yes", logprobs=False)]) as server:
        (reply,) = answers(OpenAIClient(server.address, None, quick), ask("?", "yes", "no"))
    assert isinstance(reply, Reply) and reply.label_probabilities is None and reply.text == "Yes"


def test_labels_that_are_not_among_the_likeliest_have_no_probability(quick: JudgeConfig) -> None:
    with LLMServer([Says("Perhaps")]) as server:
        (reply,) = answers(OpenAIClient(server.address, None, quick), ask("?", "yes", "no"))
    assert isinstance(reply, Reply) and reply.label_probabilities == (0.0, 0.0)


@pytest.mark.parametrize("fault", [Status(500), Status(503), Status(408), Status(409), Closed(), NOT_JSON, NO_CHOICES])
def test_what_may_pass_is_asked_again(fault: Fault, quick: JudgeConfig) -> None:
    with LLMServer([fault, fault]) as server:
        (reply,) = answers(OpenAIClient(server.address, None, quick), ask("?"))
        assert isinstance(reply, Reply) and server.asked.total() == 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (RateLimit(0), "rate limit"),
        (Status(500), "server"),
        (Closed(), "connection"),
        (NOT_JSON, "unreadable"),
        (NO_CHOICES, "unreadable"),
        (Body(b"[]"), "unreadable"),
    ],
)
def test_after_the_last_attempt_there_is_a_failure_of_its_kind(fault: Fault, kind: str, quick: JudgeConfig) -> None:
    with LLMServer([fault] * 3) as server:
        (failure,) = answers(OpenAIClient(server.address, None, quick), ask("?"))
        assert isinstance(failure, Failure) and failure.kind == kind and server.asked.total() == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_asked_again(status: int, quick: JudgeConfig) -> None:
    with LLMServer([Status(status)]) as server:
        (failure,) = answers(OpenAIClient(server.address, None, quick), ask("?"))
        assert isinstance(failure, Failure) and failure.kind == "refused" and server.asked.total() == 1
        assert str(status) in failure.detail


def test_a_429_is_retried_after_the_time_it_names(quick: JudgeConfig) -> None:
    with LLMServer([RateLimit(0.7)]) as server:
        (reply,) = answers(OpenAIClient(server.address, None, quick), ask("?"))
        first, second = server.times
    assert isinstance(reply, Reply) and second - first >= 0.7


def test_a_server_that_wants_an_hour_is_taken_to_refuse(quick: JudgeConfig) -> None:
    with LLMServer([RateLimit(3600)]) as server:
        (failure,) = answers(OpenAIClient(server.address, None, quick), ask("?"))
    assert isinstance(failure, Failure) and failure.kind == "rate limit"


def test_silence_is_a_timeout_and_holds_up_nobody_else() -> None:
    config = JudgeConfig(concurrency=2, timeout_seconds=0.3, attempts=1)
    with LLMServer([Silence(30)]) as server:
        started = time.monotonic()
        found = [answer for _, answer in OpenAIClient(server.address, None, config).answer([ask("a"), ask("b")])]
    assert time.monotonic() - started < 5
    assert isinstance(found[0], Reply) and isinstance(found[1], Failure) and found[1].kind == "timeout"


def test_an_empty_text_is_a_failure(quick: JudgeConfig) -> None:
    with LLMServer([Says("  ", logprobs=False)]) as server:
        (failure,) = answers(OpenAIClient(server.address, None, quick), ask("?"))
    assert isinstance(failure, Failure) and failure.kind == "empty"


def test_half_a_surrogate_pair_in_a_reply_can_be_stored(quick: JudgeConfig) -> None:
    body = b'{"choices": [{"message": {"content": "fruit \\ud83d"}}]}'
    with LLMServer([Body(body)]) as server:
        (reply,) = answers(OpenAIClient(server.address, None, quick), ask("?"))
    assert isinstance(reply, Reply) and reply.text.encode() == b"fruit ?"


def test_leaving_early_stops_the_requests(quick: JudgeConfig) -> None:
    with LLMServer([Says("a"), *[Silence(30)] * 3]) as server:
        found = OpenAIClient(server.address, None, quick).answer([ask(str(i)) for i in range(50)])
        next(found)
        started = time.monotonic()
        found.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 2
        assert "outcrop-requests" not in {thread.name for thread in threading.enumerate()}


def test_the_key_is_written_nowhere(
    tmp_path: Path, quick: JudgeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret\n")
    with LLMServer([Status(401)]) as server, Replies(tmp_path / "replies.sqlite") as replies:
        client = RememberingClient(connect(server.address, None, quick), replies)
        found = [answer for _, answer in client.answer([ask("a"), ask("b")])]
        assert server.keys == {"sk-very-secret"}
        assert "secret" not in repr(found) + caplog.text
        assert not any(b"secret" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_judge_that_does_not_answer_is_named_with_its_address(quick: JudgeConfig) -> None:
    with LLMServer() as server:
        address = server.address
    with pytest.raises(JudgeError, match=rf"{address} does not answer.*Start it"):
        connect(address, None, JudgeConfig(attempts=1))


def test_an_address_without_its_v1_is_refused_with_the_remedy(quick: JudgeConfig) -> None:
    with LLMServer() as server, pytest.raises(JudgeError, match=r"often ends in /v1"):
        connect(server.address.removesuffix("/v1"), None, quick)


def test_a_model_that_is_not_served_is_refused_with_those_that_are(quick: JudgeConfig) -> None:
    with LLMServer(model="small") as server, pytest.raises(JudgeError, match="serves small; expected large"):
        connect(server.address, "large", quick)


def test_a_failed_request_is_a_record_but_no_answer(tmp_path: Path, quick: JudgeConfig) -> None:
    path = tmp_path / "replies.sqlite"
    with LLMServer([Status(400)]) as server, Replies(path) as replies:
        client = RememberingClient(OpenAIClient(server.address, None, quick), replies)
        assert isinstance(next(client.answer([ask("?")]))[1], Failure)
        assert sqlite3.connect(path).execute("SELECT failure FROM replies").fetchall() == [("refused",)]
        assert isinstance(next(client.answer([ask("?")]))[1], Reply)


# -- schemas -------------------------------------------------------------------------------------------------

SCHEMA = '{"type": "array", "items": {"type": "boolean"}}'


def ask_for_json(text: str) -> Request:
    return Request((Message("user", text),), 8, schema=SCHEMA)


def with_schema(server: LLMServer) -> int:
    return sum("response_format" in json.loads(body) for body in server.asked.elements())


def refuses_schemas(status: int) -> Any:
    return lambda request, _: Status(status) if "response_format" in request else None


def test_a_schema_is_sent_as_it_is(quick: JudgeConfig) -> None:
    with LLMServer() as server:
        answers(OpenAIClient(server.address, None, quick), ask_for_json("?"), ask("!"))
    sent = [json.loads(body) for body in server.asked]
    formats = {body["messages"][0]["content"]: body.get("response_format") for body in sent}
    schema = {"name": "answer", "schema": json.loads(SCHEMA)}
    assert formats == {"?": {"type": "json_schema", "json_schema": schema}, "!": None}


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_schemas_is_asked_without_and_this_is_no_attempt(status: int) -> None:
    config = JudgeConfig(concurrency=1, attempts=1)
    with LLMServer(befalls=refuses_schemas(status)) as server:
        client = OpenAIClient(server.address, None, config)
        for _ in range(2):
            found = answers(client, *[ask_for_json(str(i)) for i in range(3)])
            assert all(isinstance(answer, Reply) for answer in found)
        assert with_schema(server) == 1 and server.asked.total() == 7


def test_a_request_that_is_refused_without_its_schema_too_says_nothing_of_schemas(quick: JudgeConfig) -> None:
    with LLMServer([Status(400), Status(400)]) as server:
        client = OpenAIClient(server.address, None, quick)
        (failure,) = answers(client, ask_for_json("too long"))
        assert isinstance(failure, Failure) and failure.kind == "refused"
        answers(client, ask_for_json("short"))
        assert with_schema(server) == 2


def test_a_schema_is_not_given_up_because_something_else_failed(quick: JudgeConfig) -> None:
    with LLMServer([Status(400), Status(503)]) as server:
        client = OpenAIClient(server.address, None, quick)
        assert isinstance(answers(client, ask_for_json("too long"))[0], Reply)
        answers(client, ask_for_json("short"))
        assert with_schema(server) == 3


def test_a_server_that_refuses_log_probabilities_is_asked_without() -> None:
    with LLMServer(befalls=lambda request, _: Status(400) if "logprobs" in request else None) as server:
        client = OpenAIClient(server.address, None, JudgeConfig(concurrency=1, attempts=1))
        found = answers(client, *[ask(str(i), "yes", "no") for i in range(3)])
        assert all(isinstance(answer, Reply) and answer.label_probabilities is None for answer in found)
        assert server.asked.total() == 4


def ask_for_numbers(text: str) -> Request:
    return replace(ask_for_json(text), numbers_up_to=10)


def test_what_is_refused_alone_is_left_out_alone(quick: JudgeConfig) -> None:
    for refused, kept in (("logprobs", "response_format"), ("response_format", "logprobs")):
        with LLMServer(befalls=lambda request, _, name=refused: Status(400) if name in request else None) as server:
            client = OpenAIClient(server.address, None, JudgeConfig(concurrency=1, attempts=1))
            found = answers(client, *[ask_for_numbers(str(i)) for i in range(3)])
            assert all(isinstance(answer, Reply) for answer in found)
            bodies = [json.loads(body) for body in server.asked.elements()]
            assert sum(kept in body and refused not in body for body in bodies) == 3
            assert sum(refused in body for body in bodies) <= 2


def test_numbers_of_a_completion_have_their_expected_values() -> None:
    def token(text: str, **alternatives: float) -> dict[str, Any]:
        likeliest = [{"token": name.removeprefix("n"), "logprob": math.log(p)} for name, p in alternatives.items()]
        return {"token": text, "logprob": 0.0, "top_logprobs": likeliest}

    content = [token("["), token("0", n0=0.5, n10=0.5), token(", "), token("3", n3=1.0), token("]")]
    choice = {"message": {"content": "[0, 3]"}, "logprobs": {"content": content}}
    reply = read_completion(json.dumps({"choices": [choice]}).encode(), ask_for_numbers("?"), 0.0)
    assert isinstance(reply, Reply) and reply.expected_numbers == pytest.approx((5.0, 3.0))
    assert reply.label_probabilities is None
    without = {"choices": [{"message": {"content": "[0, 3]"}}]}
    reply = read_completion(json.dumps(without).encode(), ask_for_numbers("?"), 0.0)
    assert isinstance(reply, Reply) and reply.expected_numbers is None


# -- several servers -----------------------------------------------------------------------------------------


def both(first: LLMServer, second: LLMServer) -> str:
    return f"{first.address}, {second.address}"


def test_requests_are_spread_over_the_servers_and_each_has_its_own_concurrency(quick: JudgeConfig) -> None:
    with LLMServer(delay_seconds=0.05) as first, LLMServer(delay_seconds=0.05) as second:
        found = answers(OpenAIClient(both(first, second), None, quick), *[ask(str(i)) for i in range(48)])
        assert all(isinstance(answer, Reply) for answer in found)
        assert first.asked.total() + second.asked.total() == 48
        assert first.most_at_once == second.most_at_once == quick.concurrency


def test_a_slow_server_gets_fewer_requests(quick: JudgeConfig) -> None:
    with LLMServer(delay_seconds=0.3) as slow, LLMServer(delay_seconds=0.01) as fast:
        answers(OpenAIClient(both(slow, fast), None, quick), *[ask(str(i)) for i in range(60)])
        assert fast.asked.total() > 2 * slow.asked.total() > 0


def test_of_servers_that_are_equally_busy_the_first_is_asked(quick: JudgeConfig) -> None:
    with LLMServer() as first, LLMServer() as second:
        client = OpenAIClient(both(first, second), None, quick)
        for i in range(3):
            answers(client, ask(str(i)))
        assert (first.asked.total(), second.asked.total()) == (3, 0)


def test_when_a_server_goes_away_the_others_answer_all(quick: JudgeConfig) -> None:
    with LLMServer() as staying:
        with LLMServer() as leaving:
            client = OpenAIClient(both(leaving, staying), None, JudgeConfig(concurrency=4, attempts=2))
        found = answers(client, *[ask(str(i)) for i in range(40)])
        assert all(isinstance(answer, Reply) for answer in found)
        assert staying.most_at_once <= 4


def test_where_nobody_answers_any_more_the_rest_is_not_asked() -> None:
    config = JudgeConfig(concurrency=64, attempts=1)
    with LLMServer(befalls=lambda *_: Closed()) as server:
        client, found = OpenAIClient(server.address, None, config), []
        with pytest.raises(JudgeError, match=rf"last 256 requests got no answer from {server.address} \(connection"):
            for answer in client.answer([ask(str(i)) for i in range(5_000)]):
                found.append(answer)
        assert len(found) == 256
        assert server.asked.total() < 1_000


def test_requests_that_are_refused_do_not_end_a_run(quick: JudgeConfig) -> None:
    with LLMServer(befalls=lambda *_: Status(400)) as server:
        found = answers(OpenAIClient(server.address, None, quick), *[ask(str(i)) for i in range(300)])
        assert len(found) == 300


@pytest.mark.parametrize("fault", [Status(503), RateLimit(30), Closed(), NOT_JSON])
def test_a_server_that_only_fails_keeps_nobody_waiting(fault: Fault) -> None:
    with LLMServer(befalls=lambda *_: fault) as failing, LLMServer(delay_seconds=0.05) as healthy:
        client = OpenAIClient(both(failing, healthy), None, JudgeConfig(concurrency=4, attempts=3))
        started = time.monotonic()
        found = answers(client, *[ask(str(i)) for i in range(40)])
        assert time.monotonic() - started < 20
        assert all(isinstance(answer, Reply) for answer in found)
        assert fault is NOT_JSON or failing.asked.total() < 20, "it rests"


def test_servers_of_different_models_are_refused_with_what_each_serves(quick: JudgeConfig) -> None:
    with LLMServer(model="small") as first, LLMServer(model="large") as second:
        for wanted in (None, "small"):
            with pytest.raises(JudgeError, match=rf"{first.address} serves small. .*{second.address} serves large"):
                connect(both(first, second), wanted, quick)


def test_a_server_that_is_not_there_at_the_start_is_named_and_left_out(
    quick: JudgeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with LLMServer() as gone:
        pass
    with LLMServer() as staying:
        client = OpenAIClient(both(gone, staying), None, JudgeConfig(concurrency=4, attempts=1))
        found = answers(client, *[ask(str(i)) for i in range(10)])
    assert all(isinstance(answer, Reply) for answer in found)
    assert f"{gone.address} does not answer" in caplog.text and "goes on without it" in caplog.text
    with pytest.raises(JudgeError, match=f"{gone.address} does not answer.*{staying.address} does not answer"):
        connect(both(gone, staying), None, JudgeConfig(attempts=1))


def test_of_several_models_none_is_guessed_while_a_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLMServer() as gone, LLMServer() as staying:
        served = {gone.address: ["qwen"], staying.address: ["llama", "qwen"]}
        monkeypatch.setattr(Server, "served", lambda self: served[self.address])
        assert OpenAIClient(both(gone, staying), None, JudgeConfig()).model == "qwen"

        def served_without(self: Server) -> list[str]:
            if self.address == gone.address:
                raise JudgeError("away")
            return served[self.address]

        monkeypatch.setattr(Server, "served", served_without)
        with pytest.raises(JudgeError, match=r"serve llama, qwen, .*--judge\.model"):
            OpenAIClient(both(gone, staying), None, JudgeConfig())
        assert OpenAIClient(both(gone, staying), "qwen", JudgeConfig()).model == "qwen"


def test_where_one_server_asks_to_wait_long_another_is_asked_again() -> None:
    with LLMServer([Silence(3)]) as slow, LLMServer(befalls=lambda *_: RateLimit(600)) as limited:
        config = JudgeConfig(concurrency=1, attempts=3, timeout_seconds=0.5)
        (found,) = answers(OpenAIClient(both(slow, limited), None, config), ask("?"))
        assert isinstance(found, Reply)
        assert (slow.asked.total(), limited.asked.total()) == (2, 1)


def test_who_stops_does_not_wait_for_a_request_that_missed_its_cancellation(
    server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As happens where a cancellation and the time-out of a step of connecting fall together."""
    missed: list[str] = []

    async def complete(self: Server, connection: openai.AsyncOpenAI, model: str, request: Request) -> Outcome:
        if request.messages[0].content == "quick":
            return Outcome(Failure("empty", ""), 0.0)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            missed.append(request.messages[0].content)
        await asyncio.sleep(60)
        raise AssertionError("the second cancellation ends it")

    monkeypatch.setattr(Server, "complete", complete)
    client = OpenAIClient(server.address, None, JudgeConfig(concurrency=2, attempts=1))
    start, under_way = time.monotonic(), client.answer([ask("quick"), ask("slow"), ask("slower")])
    assert next(under_way)[0] == 0
    under_way.close()
    assert time.monotonic() - start < 20 and missed
