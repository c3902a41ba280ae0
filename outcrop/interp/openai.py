"""Asking any OpenAI-compatible server (vLLM, llama.cpp, Ollama, OpenRouter, OpenAI).

The probability of a label is the sum over the 20 likeliest first tokens whose text is the label,
whatever its case and the spaces around it:

    p(label) = Σ_t exp(logprob_t) [strip(casefold(t)) = casefold(label)]

Requests run on an event loop in a thread of their own, so that they go on while the caller is
busy and so that a caller with a loop of its own (a notebook) can use this, too.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import openai

from outcrop.config import JudgeConfig
from outcrop.errors import JudgeError
from outcrop.types import Failure, FailureKind, Reply, Request

_TOP_LOGPROBS = 20  # the most that OpenAI's interface allows
_NO_KEY = "none"  # local servers want any key at all
_FIRST_WAIT_SECONDS = 0.5  # doubled after every attempt
_LONGEST_BACKOFF_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 300.0  # who asks for more is taken to refuse
_LONGEST_DETAIL = 300  # characters of a failure's detail

_AGAIN: frozenset[FailureKind] = frozenset({"timeout", "connection", "rate limit", "server", "unreadable"})

Answer = tuple[int, Reply | Failure]


class OpenAIClient:
    """One model on one server, asked over at most `config.concurrency` connections at once.

    The key is read from OPENAI_API_KEY; it is neither stored nor shown.
    """

    def __init__(self, address: str, model: str | None, config: JudgeConfig) -> None:
        self._address = address
        self._key = os.environ.get("OPENAI_API_KEY") or _NO_KEY
        self._config = config
        self.model = self._choose(model)

    def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
        answers: SimpleQueue[Answer | BaseException] = SimpleQueue()
        with _LoopThread(self._ask_all(requests, answers.put), answers.put):
            for _ in requests:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer

    async def _ask_all(self, requests: Sequence[Request], put: Callable[[Answer], None]) -> None:
        todo = iter(enumerate(requests))  # shared by the workers
        async with self._server() as server:

            async def work() -> None:
                for index, request in todo:
                    put((index, await self._ask(server, request)))

            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self._config.concurrency, len(requests))):
                    workers.create_task(work())

    async def _ask(self, server: openai.AsyncOpenAI, request: Request) -> Reply | Failure:
        """One request, tried as often as it may be."""
        for attempt in range(1, self._config.attempts + 1):
            answer, asked_seconds = await self._attempt(server, request)
            wait_seconds = max(asked_seconds, _backoff_seconds(attempt))
            final = isinstance(answer, Reply) or answer.kind not in _AGAIN or wait_seconds > _LONGEST_WAIT_SECONDS
            if final or attempt == self._config.attempts:
                return answer
            await asyncio.sleep(wait_seconds)
        raise AssertionError("there is at least one attempt")

    async def _attempt(self, server: openai.AsyncOpenAI, request: Request) -> tuple[Reply | Failure, float]:
        """The answer, and how many seconds the server asked us to wait."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                raw = await server.chat.completions.with_raw_response.create(**self._arguments(request))
            return read_completion(raw.content, request, time.monotonic() - started), 0.0
        except (TimeoutError, openai.APITimeoutError):
            return Failure("timeout", f"no answer within {self._config.timeout_seconds:g} s"), 0.0
        except openai.APIStatusError as error:
            return self._status_failure(error), _retry_after(error.response.headers)
        except openai.APIConnectionError as error:
            return Failure("connection", self._shown(error.__cause__ or error)), 0.0

    def _arguments(self, request: Request) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.labels:
            arguments |= {"max_tokens": 1, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        return arguments

    def _status_failure(self, error: openai.APIStatusError) -> Failure:
        detail = f"HTTP {error.status_code}: {self._shown(error)}"
        match error.status_code:
            case 429:
                return Failure("rate limit", detail)
            case 408:
                return Failure("timeout", detail)
            case status if status == 409 or status >= 500:
                return Failure("server", detail)
            case _:
                return Failure("refused", detail)

    def _shown(self, error: BaseException) -> str:
        """An error in words. Some servers repeat the key when they refuse it."""
        words = str(error) or type(error).__name__
        return _whole(words.replace(self._key, "…") if self._key != _NO_KEY else words)[:_LONGEST_DETAIL]

    def _server(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self._address, api_key=self._key, timeout=self._config.timeout_seconds, max_retries=0
        )

    def _choose(self, model: str | None) -> str:
        """The model asked for, or the first that is served."""
        served = self._served()
        if not served or model not in (None, *served):
            raise JudgeError(
                f"The server at {self._address} serves {', '.join(served) or 'no model'}; "
                f"expected {model or 'at least one model'}. Name one of those that it serves, or start it with another."
            )
        return model or served[0]

    def _served(self) -> list[str]:
        server = openai.OpenAI(
            base_url=self._address,
            api_key=self._key,
            timeout=self._config.timeout_seconds,
            max_retries=self._config.attempts - 1,
        )
        try:
            with server:
                listed = json.loads(server.models.with_raw_response.list().content)["data"]
                return [str(model["id"]) for model in listed]
        except openai.AuthenticationError as error:
            remedy = "Set OPENAI_API_KEY to a key that it accepts."
            raise JudgeError(f"The server at {self._address} refuses: {self._shown(error)}. {remedy}") from None
        except (openai.OpenAIError, ValueError, KeyError, TypeError) as error:
            raise JudgeError(
                f"The judge at {self._address} does not answer: {self._shown(error.__cause__ or error)}. Expected an "
                "OpenAI-compatible server that lists its models at …/models. Start it, or correct the address; "
                "it often ends in /v1."
            ) from None


def read_completion(body: bytes, request: Request, seconds: float) -> Reply | Failure:
    """A chat completion, or why the body is none."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        text = _whole(choice["message"].get("content") or "")
        probabilities = _label_probabilities(choice, request.labels) if request.labels else None
        usage = completion.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        start = body[:100].decode("utf-8", "replace")
        return Failure("unreadable", f"no chat completion ({type(error).__name__}) but {start!r}")
    if probabilities is None and not text.strip():
        return Failure("empty", "an answer without text")
    return Reply(text, probabilities, *tokens, seconds)


def _label_probabilities(choice: dict[str, Any], labels: tuple[str, ...]) -> tuple[float, ...] | None:
    """None where the server gives none; zero for a label that is not among the likeliest tokens."""
    tokens = (choice.get("logprobs") or {}).get("content")
    if not tokens:
        return None
    first = tokens[0]
    alternatives = first.get("top_logprobs") or [first]
    words = [(str(a["token"]).strip().casefold(), math.exp(a["logprob"])) for a in alternatives]
    return tuple(math.fsum(p for word, p in words if word == label.casefold()) for label in labels)


def _whole(text: str) -> str:
    """JSON can hold half a surrogate pair, which no file can."""
    return text.encode("utf-8", "replace").decode()


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds or a date, as HTTP allows; 0 where the server names none."""
    value = headers.get("retry-after", "0")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


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
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

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
