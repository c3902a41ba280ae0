"""What a run would ask, without asking: a `Client` for dry runs that counts, and answers with what is known already or
with failures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from outcrop.replies import Replies
from outcrop.types import Explanation, Failure, Reply, Request

DRY_RUN = "nothing is asked in a dry run"
_CHARACTERS = 4  # of a token of English text, estimated
_FRAME = 6  # tokens around a message, as chat templates have them, estimated


def as_long_as_it_may_be(explanation: Explanation, n_tokens: int) -> Explanation:
    """What a judge would be shown of an explanation that a dry run did not ask for; no two are alike."""
    if explanation.failure is None or explanation.failure.detail != DRY_RUN:
        return explanation
    name = f"{explanation.latent} {explanation.explainer} {explanation.source} "
    text = hashlib.sha256(name.encode()).hexdigest()[:8].ljust(_CHARACTERS * n_tokens, "x")
    return replace(explanation, text=text, failure=None)


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

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        for index, request in enumerate(requests):
            name = request.hash(self.model)
            reply = self._replies.get(name)
            if reply is None and name not in self._seen:
                self._seen.add(name)
                self._count(request)
            yield index, reply or Failure("input", DRY_RUN)

    def _count(self, request: Request) -> None:
        self.requests += 1
        n_characters = sum(len(message.content) for message in request.messages)
        self.prompt_tokens += n_characters // _CHARACTERS + _FRAME * len(request.messages)
        self.most_completion_tokens += 1 if request.labels else request.max_tokens
