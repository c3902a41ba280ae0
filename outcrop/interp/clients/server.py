"""One OpenAI-compatible server: what it serves, and one chat completion asked of it.

An attempt gives the body as it came, or the kind of failure; who reads it and who tries again is
`interp.clients.openai`. The key is read from OPENAI_API_KEY; it is cut from all that a server says, unless it is as
short as a word.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import openai

from outcrop.config import JudgeConfig
from outcrop.errors import JudgeError
from outcrop.types import Failure, Request

_TOP_LOGPROBS = 20  # the most that OpenAI's interface allows
_CONNECT_SECONDS = 5.0  # at the start, where somebody waits
_NO_KEY = "none"  # local servers want any key at all
_SHORTEST_KEY = 12  # characters
_LONGEST_DETAIL = 300  # characters of a failure's detail


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt."""

    body: bytes | Failure
    seconds: float
    wait_seconds: float = 0.0  # that the server asks for before the next one
    status: int = 200


class Server:
    """One address. Whether it holds answers to a schema, or tells log-probabilities, is found out, and remembered."""

    def __init__(self, address: str, config: JudgeConfig) -> None:
        self.address = address
        self._key = os.environ.get("OPENAI_API_KEY", "").strip() or _NO_KEY
        self._timeout_seconds = config.timeout_seconds
        self._attempts = config.attempts
        self._refused = set[str]()  # of what is not offered by all

    def connection(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.address, api_key=self._key, timeout=self._timeout_seconds, max_retries=0
        )

    async def complete(self, connection: openai.AsyncOpenAI, model: str, request: Request) -> Outcome:
        """One attempt. A schema or log-probabilities that are refused are left out, and what is said without counts."""
        plain, wished = _arguments(model, request), _not_offered_by_all(request)
        more = {name: arguments for name, arguments in wished.items() if name not in self._refused}
        for left_out in _fewer(more):
            kept = (arguments for name, arguments in more.items() if name not in left_out)
            outcome = await self._post(connection, plain | dict(chain.from_iterable(of.items() for of in kept)))
            if isinstance(outcome.body, bytes):  # else it may not be what it disliked
                self._refused |= left_out
            if outcome.status not in (400, 422):
                break
        return outcome

    async def _post(self, connection: openai.AsyncOpenAI, arguments: dict[str, Any]) -> Outcome:
        started = time.monotonic()

        def outcome(body: bytes | Failure, wait_seconds: float = 0.0, status: int = 200) -> Outcome:
            return Outcome(body, time.monotonic() - started, wait_seconds, status)

        try:
            async with asyncio.timeout(self._timeout_seconds):
                # Not `chat.completions.create`: what that does to arguments and answer takes longer than all the rest.
                raw = await connection.post("/chat/completions", cast_to=bytes, body=arguments)
            return outcome(self._without_key(raw))
        except (TimeoutError, openai.APITimeoutError):
            return outcome(Failure("timeout", f"no answer within {self._timeout_seconds:g} s"))
        except openai.APIStatusError as error:
            return outcome(self._status_failure(error), _retry_after(error.response.headers), error.status_code)
        except openai.APIConnectionError as error:
            return outcome(Failure("connection", self._shown(error.__cause__ or error)))

    def _status_failure(self, error: openai.APIStatusError) -> Failure:
        said = self._shown(error).removeprefix(f"Error code: {error.status_code} - ")
        detail = f"HTTP {error.status_code}: {said}"
        match error.status_code:
            case 429:
                return Failure("rate limit", detail)
            case 408:
                return Failure("timeout", detail)
            case status if status == 409 or status >= 500:
                return Failure("server", detail)
            case _:
                return Failure("refused", detail)

    def served(self) -> list[str]:
        """The names of its models; JudgeError where it does not answer."""
        patience = openai.Timeout(self._timeout_seconds, connect=min(self._timeout_seconds, _CONNECT_SECONDS))
        connection = openai.OpenAI(
            base_url=self.address, api_key=self._key, timeout=patience, max_retries=self._attempts - 1
        )
        try:
            with connection:
                listed = json.loads(connection.models.with_raw_response.list().content)["data"]
                return [str(model["id"]) for model in listed]
        except openai.AuthenticationError as error:
            remedy = "Set OPENAI_API_KEY to a key that it accepts."
            raise JudgeError(f"The server at {self.address} refuses: {self._shown(error)}. {remedy}") from None
        except (openai.OpenAIError, ValueError, KeyError, TypeError) as error:
            raise JudgeError(
                f"The judge at {self.address} does not answer: {self._shown(error.__cause__ or error)}. Expected an "
                "OpenAI-compatible server that lists its models at …/models. Start it, or correct the address; "
                "it often ends in /v1."
            ) from None

    def _shown(self, error: BaseException) -> str:
        """An error in words. Some servers repeat the key when they refuse it."""
        words = (str(error) or type(error).__name__).encode("utf-8", "replace")
        return self._without_key(words).decode()[:_LONGEST_DETAIL]

    def _without_key(self, body: bytes) -> bytes:
        """A key as short as a word is no secret, and would tear answers that hold the word."""
        return body.replace(self._key.encode(), "…".encode()) if len(self._key) >= _SHORTEST_KEY else body


def _arguments(model: str, request: Request) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "max_tokens": 1 if request.labels else request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }


def _not_offered_by_all(request: Request) -> dict[str, dict[str, Any]]:
    """Arguments that go together, by what they ask for."""
    more: dict[str, dict[str, Any]] = {}
    if request.needs_probabilities:
        more["logprobs"] = {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
    if request.schema is not None:
        schema = {"name": "answer", "schema": json.loads(request.schema)}
        more["schema"] = {"response_format": {"type": "json_schema", "json_schema": schema}}
    return more


def _fewer(more: Collection[str]) -> list[set[str]]:
    """What to leave out, in turn: nothing, one of several, all."""
    one = [{name} for name in more] if len(more) > 1 else []
    return [set(), *one, *([{*more}] if more else [])]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds or a date, as HTTP allows; 0 where the server names none."""
    value = headers.get("retry-after", "0")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
