"""All scorers together: every explanation judged on the scored windows of its latent, and its controls beside it.

Scorers that ask the judge put their questions in one stream, so that its slots stay busy across scorers and
latents; the others follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

from outcrop.config import ScoreConfig
from outcrop.errors import ConfigError
from outcrop.interp.clients.client import Client
from outcrop.interp.scorers import detection, fuzzing, intruder, simulation
from outcrop.interp.scorers.embedding import embedding_scores
from outcrop.interp.scorers.judging import Arm, Question, arms, ask
from outcrop.interp.scorers.surprisal import surprisal_scores
from outcrop.model.embed import Embedder
from outcrop.model.likelihood import Likelihoods
from outcrop.progress import Progress, silent
from outcrop.types import Explanation, Judgement, LatentExamples, Vocabulary

_Needed = TypeVar("_Needed", Embedder, Likelihoods)

_QUESTIONS: dict[str, Callable[[Sequence[Arm], Vocabulary, ScoreConfig], Iterator[Question]]] = {
    "detection": detection.questions,
    "fuzzing": fuzzing.questions,
    "simulation": simulation.questions,
}


def score(
    examples: Sequence[LatentExamples],
    explanations: Sequence[Explanation],
    client: Client | None,
    vocabulary: Vocabulary,
    config: ScoreConfig,
    progress: Progress = silent,
    *,
    embedder: Embedder | None = None,
    reader: Likelihoods | None = None,
) -> Iterator[Judgement]:
    """One judgement per scorer, arm and scored window; those that are asked for in order of completion.

    ConfigError, before anything is asked, where a scorer asks and there is no `client`, the scorer embedding has no
    embedder or surprisal no reader.
    """
    if config.asking and client is None:
        raise ConfigError(f"the scorers {', '.join(config.asking)} ask a language model, but none is given")
    found = arms(examples, explanations, config)
    measuring: list[Iterator[Judgement]] = []
    if "embedding" in config.scorers:
        measuring.append(embedding_scores(found, _given(embedder, "embedding", "embedder"), vocabulary, progress))
    if "surprisal" in config.scorers:
        measuring.append(surprisal_scores(found, _given(reader, "surprisal", "reader"), vocabulary, progress))
    if client is not None:
        asking = [partial(_QUESTIONS[name], found, vocabulary, config) for name in config.scorers if name in _QUESTIONS]
        if "intruder" in config.scorers:
            asking.append(partial(intruder.questions, examples, vocabulary, config))
        return chain(_asked(asking, client, progress), *measuring)
    return chain.from_iterable(measuring)


def _asked(
    asking: Sequence[Callable[[], Iterator[Question]]], client: Client, progress: Progress
) -> Iterator[Judgement]:
    n = sum(len(question.judgements) for questions in asking for question in questions())
    with progress("score", n, "judgements") as advance:
        yield from ask(chain.from_iterable(questions() for questions in asking), client, advance)


def _given(needed: _Needed | None, scorer: str, name: str) -> _Needed:
    if needed is None:
        raise ConfigError(f"the scorer {scorer} is wanted, but no {name} is given; score(..., {name}=...) takes one")
    return needed
