"""What every scorer has in common: arms, questions, and how answers become judgements.

An *arm* is a latent's scored windows together with what the judge is told of it:

    plain      the latent's own explanation
    none       nothing: the first control
    other      the explanation of another latent of similar firing rate: the second control
    base_rate  its own explanation, and how common such windows are

A scorer that asks an LLM turns arms into questions; `ask` puts those of all scorers and latents to
the judge in large portions, so that its slots are idle only behind the slowest answers of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from outcrop.config import ScoreConfig
from outcrop.interp.clients.client import Client
from outcrop.types import CoderKey, Example, Explanation, Failure, Judgement, LatentExamples, LatentId, Reply, Request

ArmName = Literal["plain", "none", "other", "base_rate"]

_AT_ONCE = 16_384  # questions in memory; enough that their tail costs little


@dataclass(frozen=True)
class Choice:
    """One of several labels: the probability of the right one, and whether it was the likeliest."""

    probability: float
    right: bool


Verdict = float | bool | tuple[float, ...] | Choice | Failure
"""A probability of yes; yes or no where the judge gives none; what was measured; which label; or why it is none of
these."""


@dataclass(frozen=True)
class Arm:
    """The scored windows of one latent, and the explanation that is judged on them."""

    name: ArmName
    examples: LatentExamples
    explanation: Explanation | None = None  # whose text is shown; of the arm "other" another latent's
    explainer: str = ""  # of the explanation whose score this is, or beside whose score it stands
    source: str = ""

    @property
    def text(self) -> str | None:
        return self.explanation.text if self.explanation else None

    def judgement(self, scorer: str, example: Example) -> Judgement:
        """All of a judgement but the verdict."""
        return Judgement(self.examples.latent, scorer, self.name, self.explainer, self.source, example.index)


@dataclass(frozen=True)
class Question:
    """One request, and the judgements that its answer decides."""

    judgements: tuple[Judgement, ...]  # all but the verdicts
    request: Request
    read: Callable[[Reply], Sequence[Verdict]]  # a verdict for each of them


def arms(examples: Sequence[LatentExamples], explanations: Sequence[Explanation], config: ScoreConfig) -> list[Arm]:
    """Each latent with each of its explanations and with its controls."""
    own = _own(examples, explanations)
    others = _others(examples, own) if "other" in config.controls else {}
    found = []
    for latent in examples:
        for one in own[latent.latent]:
            names = one.explainer, one.source
            found.append(Arm("plain", latent, one, *names))
            if config.tell_base_rate:
                found.append(Arm("base_rate", latent, one, *names))
            if (other := others.get((latent.latent, *names))) is not None:
                found.append(Arm("other", latent, other, *names))
        if own[latent.latent] and "none" in config.controls:
            found.append(Arm("none", latent))
    return found


def without_other(examples: Sequence[LatentExamples], explanations: Sequence[Explanation]) -> int:
    """Of how many explanations there is no second control: no other latent has one of the kind that says something
    else."""
    own = _own(examples, explanations)
    return sum(map(len, own.values())) - len(_others(examples, own))


def _own(examples: Sequence[LatentExamples], explanations: Sequence[Explanation]) -> dict[LatentId, list[Explanation]]:
    """Those with a text, of the latents that there are windows of."""
    own: dict[LatentId, list[Explanation]] = {latent.latent: [] for latent in examples}
    for explanation in explanations:
        if explanation.text is not None and explanation.latent in own:
            own[explanation.latent].append(explanation)
    return own


def with_text(arms: Iterable[Arm]) -> list[tuple[Arm, str]]:
    """The arms plain and other with the texts of their explanations: what scorers that ask nothing compare."""
    return [(arm, arm.text) for arm in arms if arm.name in ("plain", "other") and arm.text is not None]


def _others(
    examples: Sequence[LatentExamples], own: Mapping[LatentId, Sequence[Explanation]]
) -> dict[tuple[LatentId, str, str], Explanation]:
    """For each explanation that of the latent nearest in log firing rate, of the same coder, explainer and source."""
    groups: dict[tuple[CoderKey, str, str], list[tuple[float, Explanation]]] = {}
    for latent in examples:
        for one in own[latent.latent]:
            group = groups.setdefault((latent.latent.coder, one.explainer, one.source), [])
            group.append((math.log(latent.firing_rate), one))
    found: dict[tuple[LatentId, str, str], Explanation] = {}
    for group in groups.values():
        group.sort(key=lambda rated: (rated[0], rated[1].latent))
        for i, (_, one) in enumerate(group):
            other = _nearest(group, i)
            if other is not None:
                found[one.latent, one.explainer, one.source] = other
    return found


def _nearest(group: Sequence[tuple[float, Explanation]], i: int) -> Explanation | None:
    """The explanation beside the i-th, by rising rate, that says something else: a text that two latents share tells
    nothing of the difference between them."""
    here, own = group[i]
    below = next((group[j] for j in range(i - 1, -1, -1) if group[j][1].text != own.text), None)
    above = next((group[j] for j in range(i + 1, len(group)) if group[j][1].text != own.text), None)
    near = [one for one in (below, above) if one is not None]
    return min(near, key=lambda rated: abs(rated[0] - here))[1] if near else None


def ask(questions: Iterable[Question], client: Client, advance: Callable[[int], None]) -> Iterator[Judgement]:
    """The judgements, in order of completion. `advance` is told how many there are at a time."""
    waiting = iter(questions)
    while some := list(islice(waiting, _AT_ONCE)):
        for index, answer in client.answer([question.request for question in some]):
            question = some[index]
            advance(len(question.judgements))
            yield from _judgements(question, client.model, answer)


def _judgements(question: Question, model: str, answer: Reply | Failure) -> Iterator[Judgement]:
    n = len(question.judgements)
    verdicts = [answer] * n if isinstance(answer, Failure) else question.read(answer)
    for judgement, verdict in zip(question.judgements, verdicts, strict=True):
        yield judged(replace(judgement, request=question.request.hash(model)), verdict)


def judged(judgement: Judgement, verdict: Verdict) -> Judgement:
    """A judgement with its verdict."""
    match verdict:
        case Failure():
            return replace(judgement, failure=verdict, measured=None)
        case bool():
            return replace(judgement, predicted=verdict)
        case Choice(probability, right):
            return replace(judgement, probability=probability, predicted=right)
        case tuple():
            return replace(judgement, measured=verdict)
        case _:
            return replace(judgement, probability=verdict, predicted=verdict > 0.5)
