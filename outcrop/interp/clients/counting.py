"""What a run would ask, without asking: a `Client` for dry runs that counts, and answers with failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outcrop.replies import Replies
from outcrop.types import Failure, Message, Request

DRY_RUN = "nothing is asked in a dry run"


def _estimated_tokens(messages: Sequence[Message]) -> int:
    """An estimate, for English text: a token has four characters."""
    return sum(len(message.content) for message in messages) // 4


class CountingClient:
    """Counts the requests to a model that have no answer among the replies, each once.

    `model` is the identity of the client that would be asked: requests are known by it.
    """

    def __init__(self, model: str, replies: Replies) -> None:
        self.model = model
        self.requests = 0
        self.prompt_tokens = 0
        self.most_completion_tokens = 0  # if each answer were as long as it may be
        self._replies = replies
        self._seen: set[str] = set()

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Failure]]:
        for index, request in enumerate(requests):
            self._count(request)
            yield index, Failure("input", DRY_RUN)

    def _count(self, request: Request) -> None:
        name = request.hash(self.model)
        if name in self._seen or self._replies.get(name) is not None:
            return
        self._seen.add(name)
        self.requests += 1
        self.prompt_tokens += _estimated_tokens(request.messages)
        self.most_completion_tokens += 1 if request.labels else request.max_tokens
