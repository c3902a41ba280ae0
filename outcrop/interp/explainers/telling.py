"""Asking an explainer for one phrase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from outcrop.config import ExplainConfig
from outcrop.interp.clients.client import Client
from outcrop.interp.explainers.phrases import explanation_of
from outcrop.interp.prompts import Evidence, explain_messages
from outcrop.types import Example, Explanation, Failure, LatentId, Reply, Request, Vocabulary

WHOLE = "all"  # the source of an explanation from windows of every quantile


def evidence_of(shown: Sequence[Example], promoted: Sequence[int] = ()) -> Evidence:
    activating, others = (tuple(one.window for one in shown if one.activating == kind) for kind in (True, False))
    return Evidence(activating, others, tuple(promoted))


@dataclass(frozen=True)
class Telling:
    """What one explainer is to say, and of what."""

    latent: LatentId
    explainer: str
    source: str
    evidence: Evidence

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be asked."""
        if not self.evidence.activating:
            return "there is no activating window to show"
        if self.explainer == "output" and not self.evidence.promoted:
            return "the coder's target is not on the residual stream, so that no token is known to be promoted"
        return None

    def explanation(
        self, text: str | None, request: str, failure: Failure | None = None, reasoning: str | None = None
    ) -> Explanation:
        windows = self.evidence.windows
        n_tokens = sum(len(window.tokens) for window in windows)
        return Explanation(
            self.latent, self.explainer, self.source, text, request, failure, len(windows), n_tokens, reasoning
        )


def tell(
    tellings: Sequence[Telling],
    client: Client,
    vocabulary: Vocabulary,
    config: ExplainConfig,
    advance: Callable[[int], None],
) -> Iterator[Explanation]:
    """One explanation each, in order of completion; a failure where there is nothing to show."""
    possible = [telling for telling in tellings if telling.obstacle is None]
    for telling in tellings:
        if telling.obstacle is not None:
            advance(1)
            yield telling.explanation(None, "", Failure("input", telling.obstacle))
    requests = [_request(telling.evidence, vocabulary, config) for telling in possible]
    for index, answer in client.answer(requests):
        advance(1)
        yield _explanation(possible[index], requests[index].hash(client.model), answer, config)


def _request(evidence: Evidence, vocabulary: Vocabulary, config: ExplainConfig) -> Request:
    messages = explain_messages(evidence, vocabulary, think=config.reasoning_tokens > 0)
    return Request(messages, config.most_tokens)


def _explanation(telling: Telling, request: str, answer: Reply | Failure, config: ExplainConfig) -> Explanation:
    if isinstance(answer, Failure):
        return telling.explanation(None, request, answer)
    said, reasoning = explanation_of(answer, thought=config.reasoning_tokens > 0)
    if isinstance(said, Failure):
        return telling.explanation(None, request, said, reasoning)
    return telling.explanation(said, request, None, reasoning)
