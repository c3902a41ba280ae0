"""Asking OpenAI-compatible servers (vLLM, llama.cpp, Ollama, OpenRouter, OpenAI), one or several at once.

The probability of a label is the sum over the 20 likeliest first tokens whose text is the label,
whatever its case and the spaces around it:

    p(label) = Σ_t exp(logprob_t) [strip(casefold(t)) = casefold(label)]

A server that does not answer at the start is left out. Each request goes to the one with the fewest of ours in flight,
and where it got no answer to another, if there is one. A server that refuses connections, fails or asks to wait rests
for a while. Requests run on an event loop in a thread of their own, so that they go on while the caller is busy and so
that a caller with a loop of its own (a notebook) can use this, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from queue import SimpleQueue
from typing import Any

import openai

from outcrop.config import JudgeConfig
from outcrop.config.judge import addresses
from outcrop.errors import JudgeError
from outcrop.interp.clients.chat import expected_numbers, label_probabilities
from outcrop.interp.clients.server import Outcome, Server
from outcrop.types import UNANSWERED, Failure, FailureKind, Reply, Request

_FIRST_WAIT_SECONDS = 0.5  # doubled after every attempt
_LONGEST_BACKOFF_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 300.0  # where all ask for more, they are taken to refuse
_CANCEL_SECONDS = 0.5  # until what is still under way is cancelled again
_REST_SECONDS = 5.0  # of a server that could not answer
_MOST_TOKENS = 1 << 53  # a count beyond is none

_SILENCE: frozenset[FailureKind] = UNANSWERED - {"refused"}
_RESTS: frozenset[FailureKind] = _SILENCE - {"timeout"}
_AGAIN: frozenset[FailureKind] = _SILENCE | {"unreadable"}
_GIVEN_UP = 256  # requests in a row without an answer; nobody is there then

Answer = tuple[int, Reply | Failure]

log = logging.getLogger(__name__)


class OpenAIClient:
    """One model on one or several servers (addresses separated by commas), each asked over at most
    `config.concurrency` connections at once."""

    def __init__(self, name: str, model: str | None, config: JudgeConfig) -> None:
        self._config = config
        servers = [Server(address, config) for address in addresses(name)]
        served = _served(servers)
        self._servers = list(served)
        self.model = _choose_model(served, model, all_there=len(served) == len(servers))

    def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """JudgeError where nobody answers any more."""
        answers: SimpleQueue[Answer | BaseException] = SimpleQueue()
        unanswered = 0
        with _LoopThread(self._ask_all(requests, answers.put), answers.put):
            for _ in requests:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
                said = answer[1]
                unanswered = unanswered + 1 if isinstance(said, Failure) and said.kind in _SILENCE else 0
                if unanswered == _GIVEN_UP:
                    raise self._lost(str(said))

    def _lost(self, why: str) -> JudgeError:
        where = ", ".join(server.address for server in self._servers)
        return JudgeError(
            f"The last {_GIVEN_UP} requests got no answer from {where} ({why}). Every answer is kept: once it "
            "answers again, the same command goes on from here."
        )

    async def _ask_all(self, requests: Sequence[Request], put: Callable[[Answer], None]) -> None:
        todo = iter(enumerate(requests))  # shared by the workers
        async with AsyncExitStack() as stack:
            lines = [
                _Line(server, await stack.enter_async_context(server.connection()), self._config.concurrency)
                for server in self._servers
            ]

            async def work() -> None:
                for index, request in todo:
                    put((index, await self._ask(lines, request)))

            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self._config.concurrency * len(lines), len(requests))):
                    workers.create_task(work())

    async def _ask(self, lines: Sequence[_Line], request: Request) -> Reply | Failure:
        """One request, tried as often as it may be."""
        tried: list[_Line] = []
        for attempt in range(1, self._config.attempts + 1):
            line = min(lines, key=lambda line: (line.rests, line in tried, line.in_flight))
            outcome = await line.ask(self.model, request)
            answer = _read(outcome, request)
            if attempt == self._config.attempts or isinstance(answer, Reply) or answer.kind not in _AGAIN:
                return answer
            tried.append(line)
            if all(line.rests or line in tried for line in lines):
                asked_seconds = outcome.wait_seconds if all(line.rests for line in lines) else 0.0
                if asked_seconds > _LONGEST_WAIT_SECONDS:
                    return answer
                await asyncio.sleep(max(asked_seconds, _backoff_seconds(attempt)))
        raise AssertionError("there is at least one attempt")


class _Line:
    """What one call has under way at one server."""

    def __init__(self, server: Server, connection: openai.AsyncOpenAI, most: int) -> None:
        self._server, self._connection = server, connection
        self._slots = asyncio.Semaphore(most)
        self._rests_until = -math.inf
        self.in_flight = 0

    @property
    def rests(self) -> bool:
        return time.monotonic() < self._rests_until

    async def ask(self, model: str, request: Request) -> Outcome:
        self.in_flight += 1
        try:
            async with self._slots:
                outcome = await self._server.complete(self._connection, model, request)
        finally:
            self.in_flight -= 1
        if isinstance(outcome.body, Failure) and outcome.body.kind in _RESTS:
            self._rests_until = time.monotonic() + max(_REST_SECONDS, outcome.wait_seconds)
        return outcome


def _read(outcome: Outcome, request: Request) -> Reply | Failure:
    body = outcome.body
    return body if isinstance(body, Failure) else read_completion(body, request, outcome.seconds)


def _served(servers: Sequence[Server]) -> dict[Server, list[str]]:
    """The models of those that answer, all asked at once; JudgeError where none does. What another serves is not known,
    so nothing is asked of it later, either."""
    with ThreadPoolExecutor(len(servers)) as pool:
        said = dict(zip(servers, pool.map(_models_or_error, servers), strict=True))
    found = {server: models for server, models in said.items() if not isinstance(models, JudgeError)}
    silent = [why for why in said.values() if isinstance(why, JudgeError)]
    if not found:
        raise JudgeError(" ".join(map(str, silent)))
    for why in silent:
        log.warning("%s This command goes on without it.", why)
    return found


def _models_or_error(server: Server) -> list[str] | JudgeError:
    try:
        return server.served()
    except JudgeError as error:
        return error


def _choose_model(served: Mapping[Server, Sequence[str]], wanted: str | None, *, all_there: bool) -> str:
    """The model asked for, or the first that all servers serve; JudgeError where it cannot be known which that is."""
    first, *others = served.values()
    common = [model for model in first if all(model in models for models in others)]
    if wanted is None and len(common) > 1 and not all_there:
        raise JudgeError(
            f"Of the servers those that answer serve {', '.join(common)}, and one does not answer: which of these all "
            "serve is not known. Name one with --judge.model or --judge.explainer-model, or start the other server."
        )
    if not common or wanted not in (None, *common):
        seen = ". ".join(
            f"The server at {server.address} serves {', '.join(models) or 'no model'}"
            for server, models in served.items()
        )
        if not others:
            expected, remedy = "at least one model", "Name one of those that it serves, or start it with another."
        else:
            expected, remedy = "one model on all", "Start each with the same, or leave out those that serve another."
        raise JudgeError(f"{seen}; expected {wanted or expected}. {remedy}")
    return wanted or common[0]


def read_completion(body: bytes, request: Request, seconds: float) -> Reply | Failure:
    """A chat completion, or why the body is none."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        text = _whole(choice["message"].get("content") or "")
        tokens = (choice.get("logprobs") or {}).get("content") or []
        probabilities = _of_labels(tokens, request.labels) if request.labels else None
        numbers = _of_numbers(tokens, request.numbers_up_to) if request.numbers_up_to is not None else None
        usage = completion.get("usage") or {}
        counts = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        start = body[:100].decode("utf-8", "replace")
        return Failure("unreadable", f"no chat completion ({type(error).__name__}) but {start!r}")
    if probabilities is None and not text.strip():
        return Failure("empty", "an answer without text")
    return Reply(text, probabilities, *counts, seconds, expected_numbers=numbers)


def _of_labels(tokens: Sequence[Any], labels: tuple[str, ...]) -> tuple[float, ...] | None:
    """None where the server gives none."""
    return label_probabilities(_likeliest(tokens[0]), labels) if tokens else None


def _of_numbers(tokens: Sequence[Any], largest: int) -> tuple[float, ...] | None:
    """None where the server gives none."""
    if not tokens:
        return None
    return expected_numbers([str(token["token"]) for token in tokens], [*map(_likeliest, tokens)], largest)


def _likeliest(token: dict[str, Any]) -> list[tuple[str, float]]:
    return [(str(one["token"]), one["logprob"]) for one in token.get("top_logprobs") or [token]]


def _count(tokens: object) -> int:
    """0 where the server counts none."""
    return tokens if isinstance(tokens, int) and 0 <= tokens < _MOST_TOKENS else 0


def _whole(text: str) -> str:
    """JSON can hold half a surrogate pair, which no file can."""
    return text.encode("utf-8", "replace").decode()


def _backoff_seconds(attempt: int) -> float:
    """Exponential, with jitter so that requests refused together do not come back together."""
    longest = min(math.ldexp(_FIRST_WAIT_SECONDS, attempt - 1), _LONGEST_BACKOFF_SECONDS)
    return longest * random.uniform(0.5, 1.0)


class _LoopThread:
    """Runs a coroutine in a thread of its own, and cancels it on leaving."""

    def __init__(self, coroutine: Any, report: Callable[[BaseException], None]) -> None:
        self._coroutine = coroutine
        self._report = report
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="outcrop-requests", daemon=True)

    def __enter__(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        while self._thread.is_alive():
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._cancel)
            self._thread.join(_CANCEL_SECONDS)

    def _cancel(self) -> None:
        """Every task by itself, and again as long as one is left: a connection that is just being made can miss it."""
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # a defect; the caller raises it
            self._report(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
