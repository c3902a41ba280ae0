"""Detection: does this window match the explanation? One window per question.

    probability = P(yes) / (P(yes) + P(no)), predicted = probability > ½

where both labels together hold at least 1% of the next-token distribution; else the answer is
unreadable, a failure. Of a judge that gives no probabilities the first word counts.
Beside the explanation ("plain") stands the control "none": the same windows, nothing explained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from outcrop.config import ScoreConfig
from outcrop.interp.client import Client
from outcrop.interp.prompts import detection_messages
from outcrop.progress import Progress, silent
from outcrop.results import DETECTION
from outcrop.types import Explanation, Failure, Judgement, LatentExamples, LatentId, Reply, Request, Vocabulary

LABELS = ("Yes", "No")

_LEAST_MASS = 0.01
_AT_ONCE = 4096  # questions in memory; enough that their tail costs nothing
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class _Question:
    judgement: Judgement  # all but the answer
    request: Request


def detect(
    examples: Sequence[LatentExamples],
    explanations: Sequence[Explanation],
    client: Client,
    vocabulary: Vocabulary,
    config: ScoreConfig,
    progress: Progress = silent,
) -> Iterator[Judgement]:
    """One judgement per scored window, arm and successful explanation, in order of completion."""
    arms = list(_arms(examples, explanations, config.control))
    questions = _questions(arms, vocabulary)
    with progress("detect", sum(len(latent.score) for latent, _ in arms), "judgements") as advance:
        while some := list(islice(questions, _AT_ONCE)):
            for index, answer in client.answer([question.request for question in some]):
                advance(1)
                yield _judgement(some[index], client.model, answer)


def _arms(
    examples: Sequence[LatentExamples], explanations: Sequence[Explanation], control: bool
) -> Iterator[tuple[LatentExamples, Explanation | None]]:
    """Each latent with each of its explanations; with None for the control."""
    texts: dict[LatentId, list[Explanation]] = {}
    for explanation in explanations:
        if explanation.text is not None:
            texts.setdefault(explanation.latent, []).append(explanation)
    for latent in examples:
        found = texts.get(latent.latent, [])
        yield from ((latent, explanation) for explanation in found)
        if control and found:
            yield latent, None


def _questions(
    arms: Sequence[tuple[LatentExamples, Explanation | None]], vocabulary: Vocabulary
) -> Iterator[_Question]:
    for latent, explanation in arms:
        text = explanation.text if explanation else None
        names = ("plain", explanation.explainer, explanation.source) if explanation else ("none", "", "")
        for example in latent.score:
            messages = detection_messages(text, example.window, vocabulary)
            judgement = Judgement(latent.latent, DETECTION, *names, example.index)
            yield _Question(judgement, Request(messages, max_tokens=1, labels=LABELS))


def _judgement(question: _Question, model: str, answer: Reply | Failure) -> Judgement:
    asked = replace(question.judgement, request=question.request.hash(model))
    verdict = answer if isinstance(answer, Failure) else read_verdict(answer)
    match verdict:
        case Failure():
            return replace(asked, failure=verdict)
        case bool():
            return replace(asked, predicted=verdict)
        case _:
            return replace(asked, probability=verdict, predicted=verdict > 0.5)


def read_verdict(reply: Reply) -> float | bool | Failure:
    """A probability; yes or no where the judge gives none; or why it is neither."""
    if reply.label_probabilities is None:
        return _said(reply.text)
    yes, no = reply.label_probabilities
    if yes + no < _LEAST_MASS:
        return Failure("unreadable", f"yes and no have a probability of {yes + no:.2g}; it says {reply.text[:100]!r}")
    return yes / (yes + no)


def _said(text: str) -> bool | Failure:
    word = _WORD.search(text.casefold())
    match word and word[0]:
        case "yes":
            return True
        case "no":
            return False
        case _:
            return Failure("unreadable", f"neither yes nor no but {text[:100]!r}")
