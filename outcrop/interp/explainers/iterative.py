"""Explaining again: a phrase is tried on windows that its explainer was not shown, and made anew with the mistakes.

Half of the latent's windows for explaining, activating and not, are shown; the other half is the pool on which the
judge tries the phrase by detection. What it got wrong there is shown in the next round, and tried again. Of all
rounds the phrase with the best balanced accuracy on the pool stays, the earlier of equals. The scored windows are
never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from outcrop.config import ExplainConfig, ScoreConfig
from outcrop.interp.clients.client import Client
from outcrop.interp.explainers.telling import WHOLE, Telling, evidence_of, tell
from outcrop.interp.prompts import Mistakes
from outcrop.interp.scorers import detection
from outcrop.interp.scorers.judging import Arm, ask
from outcrop.progress import Progress, silent
from outcrop.types import Example, Explanation, LatentExamples, LatentId, Vocabulary

EXPLAINER = "iterative"

_SHOWN_MISTAKES = 4  # of each kind


@dataclass(frozen=True)
class _Trial:
    """A phrase, and how it did on the pool."""

    explanation: Explanation
    accuracy: float
    mistakes: Mistakes
    requests: tuple[str, ...]


def iterative(
    examples: Sequence[LatentExamples],
    explainer: Client,
    judge: Client,
    vocabulary: Vocabulary,
    config: ExplainConfig,
    progress: Progress = silent,
) -> Iterator[Explanation]:
    """One explanation per latent, after all rounds. Each round asks for all latents together."""
    best: dict[LatentId, _Trial] = {}
    failed: dict[LatentId, Explanation] = {}
    asked: dict[LatentId, list[str]] = {latent.latent: [] for latent in examples}
    halves = [_halves(latent) for latent in examples]
    evidence = {latent.latent: evidence_of(shown) for latent, (shown, _) in zip(examples, halves, strict=True)}
    pools = [replace(latent, score=pool) for latent, (_, pool) in zip(examples, halves, strict=True)]
    for i in range(config.rounds):
        tellings = [Telling(latent, EXPLAINER, WHOLE, shown) for latent, shown in evidence.items()]
        with progress(f"explain, round {i + 1}", len(tellings), "latents") as advance:
            told = {one.latent: one for one in tell(tellings, explainer, vocabulary, config, advance)}
        failed |= {latent: one for latent, one in told.items() if one.text is None}
        for latent, one in told.items():
            asked[latent].append(one.request)
        trials = list(_tried(pools, told, judge, vocabulary, progress))
        for trial in trials:
            latent = trial.explanation.latent
            asked[latent] += trial.requests
            if latent not in best or trial.accuracy > best[latent].accuracy:
                best[latent] = trial
        evidence = {
            trial.explanation.latent: replace(evidence[trial.explanation.latent], mistakes=trial.mistakes)
            for trial in trials
            if trial.mistakes.windows
        }
    for latent in (one.latent for one in examples):
        settled = best[latent].explanation if latent in best else failed[latent]
        yield replace(settled, tried=tuple(one for one in dict.fromkeys(asked[latent]) if one != settled.request))


def _halves(latent: LatentExamples) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Of the windows for explaining every second one of each kind, the others."""
    kinds: dict[str | None, list[Example]] = {}
    for example in latent.explain:
        kinds.setdefault(example.stratum, []).append(example)
    shown = tuple(example for kind in kinds.values() for example in kind[::2])
    return shown, tuple(example for kind in kinds.values() for example in kind[1::2])


def _tried(
    pools: Iterable[LatentExamples],
    told: dict[LatentId, Explanation],
    judge: Client,
    vocabulary: Vocabulary,
    progress: Progress,
) -> Iterator[_Trial]:
    arms = [Arm("plain", pool, told[pool.latent]) for pool in pools if pool.latent in told and told[pool.latent].text]
    said: dict[LatentId, dict[int, bool]] = {arm.examples.latent: {} for arm in arms}
    requests: dict[LatentId, list[str]] = {arm.examples.latent: [] for arm in arms}
    with progress("try", sum(len(arm.examples.score) for arm in arms), "judgements") as advance:
        for judgement in ask(detection.questions(arms, vocabulary, ScoreConfig()), judge, advance):
            requests[judgement.latent] += [judgement.request] if judgement.request else []
            if judgement.predicted is not None:
                said[judgement.latent][judgement.example] = judgement.predicted
    for arm in arms:
        latent = arm.examples.latent
        pool = [example for example in arm.examples.score if example.index in said[latent]]
        yield _trial(told[latent], pool, said[latent], requests[latent])


def _trial(explanation: Explanation, pool: Sequence[Example], said: dict[int, bool], requests: Sequence[str]) -> _Trial:
    """Balanced accuracy; of one kind alone where the pool has but one; 0 where nothing was judged."""
    missed = [example for example in pool if example.activating and not said[example.index]]
    matched = [example for example in pool if not example.activating and said[example.index]]
    rates = [
        1 - len(wrong) / n
        for wrong, n in (
            (missed, sum(example.activating for example in pool)),
            (matched, sum(not example.activating for example in pool)),
        )
        if n
    ]
    accuracy = sum(rates) / len(rates) if rates else 0.0
    shown = (tuple(e.window for e in wrong[:_SHOWN_MISTAKES]) for wrong in (missed, matched))
    assert explanation.text is not None
    return _Trial(explanation, accuracy, Mistakes(explanation.text, *shown), tuple(requests))
