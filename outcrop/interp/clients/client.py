"""Who is asked: a `Client` answers requests, in the order in which the answers come.

connect(name) → OpenAIClient | LocalClient | VLLMClient    servers, or a model in this process
RememberingClient(client, replies)                         the same, but what has an answer is not asked again
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from outcrop.config import JudgeConfig, ModelConfig
from outcrop.config.judge import addresses
from outcrop.errors import JudgeError, ModelError
from outcrop.replies import Replies
from outcrop.types import Failure, Reply, Request

_BY_VLLM = "vllm:"


@runtime_checkable
class Client(Protocol):
    """An LLM that answers. `model` is its identity, which every request's hash covers: the served
    model's name, or name and weights hash; never just an address."""

    @property
    def model(self) -> str: ...

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        """(index of the request, its answer), each request once, in order of completion."""
        ...


def connect(name: str, model: str | None, config: JudgeConfig) -> Client:
    """The LLM at an address (http://…, https://…) or at several, or loaded from a directory, hub name or .gguf file,
    for vllm:NAME by vLLM."""
    if is_address(name):
        from outcrop.interp.clients.openai import OpenAIClient  # a local judge needs no HTTP client

        return OpenAIClient(name, model, config)
    if name.startswith(_BY_VLLM):
        from outcrop.interp.clients.vllm import VLLMClient

        return VLLMClient(name.removeprefix(_BY_VLLM))
    from outcrop.interp.clients.local import LocalClient  # and a served one no torch
    from outcrop.model.load import load_model

    try:
        return LocalClient(load_model(ModelConfig(name=name)), config.concurrency)
    except ModelError as error:
        raise JudgeError(
            f"The judge {name!r} is no address (http://… or https://…) and cannot be loaded as a model: {error}"
        ) from error


def is_address(name: str) -> bool:
    """Whether the judge of this name is served, by one server or several."""
    return bool(addresses(name))


@contextmanager
def asking(client: Client, requests: Sequence[Request]) -> Iterator[Iterator[tuple[int, Reply | Failure]]]:
    """The client's answers; on leaving, nothing more is asked."""
    answers = client.answer(requests)
    try:
        yield answers
    finally:
        close = getattr(answers, "close", None)
        if close:
            close()


def require_installed(name: str) -> None:
    """JudgeError where a judge of this name needs a package that is missing."""
    if name.startswith(_BY_VLLM):
        from outcrop.interp.clients.vllm import require_vllm

        require_vllm()


class RememberingClient:
    """Answers from the store what it knows, and asks the client for the rest.

    Every answer is committed before it is given on, one by one: a commit takes about 0.1 ms, far
    less than any answer, and so a killed run has lost only what was in flight.
    """

    def __init__(self, client: Client, replies: Replies) -> None:
        self._client = client
        self._replies = replies

    @property
    def model(self) -> str:
        return self._client.model

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        unknown: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            name = request.hash(self.model)
            reply = None if name in unknown else self._replies.get(name)
            if reply is None:
                unknown.setdefault(name, []).append(index)
            else:
                yield index, reply
        yield from self._ask(requests, unknown)

    def _ask(self, requests: Sequence[Request], unknown: dict[str, list[int]]) -> Iterator[tuple[int, Reply | Failure]]:
        """Identical requests are sent once."""
        names = list(unknown)
        sent = [requests[unknown[name][0]] for name in names]
        with asking(self._client, sent) as answers:
            for i, answer in answers:
                self._replies.add_many([(names[i], self.model, sent[i], answer)])
                stored = self._replies.get(names[i]) or answer  # another run may have been answered first
                for index in unknown[names[i]]:
                    yield index, stored
