"""All scorers together: every explanation judged on the scored windows of its latent, and its controls beside it.

Scorers that ask the judge put their questions in one stream, so that its slots stay busy across scorers and
latents; the others follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

from outcrop.config import ScoreConfig
from outcrop.interp import detection, fuzzing, intruder, simulation
from outcrop.interp.client import Client
from outcrop.interp.judging import Arm, Question, arms, ask
from outcrop.progress import Progress, silent
from outcrop.types import Explanation, Judgement, LatentExamples, Vocabulary

_QUESTIONS: dict[str, Callable[[Sequence[Arm], Vocabulary, ScoreConfig], Iterator[Question]]] = {
    "detection": detection.questions,
    "fuzzing": fuzzing.questions,
    "intruder": intruder.questions,
    "simulation": simulation.questions,
}


def score(
    examples: Sequence[LatentExamples],
    explanations: Sequence[Explanation],
    client: Client,
    vocabulary: Vocabulary,
    config: ScoreConfig,
    progress: Progress = silent,
) -> Iterator[Judgement]:
    """One judgement per scorer, arm and scored window, in order of completion."""
    found = arms(examples, explanations, config)
    asking = [partial(_QUESTIONS[name], found, vocabulary, config) for name in config.scorers if name in _QUESTIONS]
    n = sum(len(question.judgements) for questions in asking for question in questions())
    with progress("score", n, "judgements") as advance:
        yield from ask(chain.from_iterable(questions() for questions in asking), client, advance)
