"""Surprisal: does the explanation make the window less surprising? Asks no LLM, but reads a base language model.

    measured = (NLL(window | neutral prefix) − NLL(window | explanation),)    nats per token that are saved

The control without an explanation is the neutral prefix itself; that by another latent's explanation stands beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from outcrop.interp.scorers.judging import Arm, Verdict, judged, with_text
from outcrop.model.likelihood import Likelihoods
from outcrop.progress import Progress, silent
from outcrop.schema import SURPRISAL
from outcrop.types import Failure, Judgement, Vocabulary

NEUTRAL = "words of any kind, in a text about anything"
"""Stands where an explanation would, and is about as long."""

_PREFIX = "Here is a part of a text that contains {}:\n\n"


def surprisal_scores(
    arms: Sequence[Arm], reader: Likelihoods, vocabulary: Vocabulary, progress: Progress = silent
) -> Iterator[Judgement]:
    """One judgement per scored window of the arms plain and other; the arms of a latent stand together."""
    chosen = with_text(arms)
    with progress("score by surprisal", sum(len(arm.examples.score) for arm, _ in chosen), "judgements") as advance:
        for _, of_latent in groupby(chosen, key=lambda pair: pair[0].examples.latent):
            for judgement in _of_latent(list(of_latent), reader, vocabulary):
                yield judgement
                advance(1)


def _of_latent(arms: Sequence[tuple[Arm, str]], reader: Likelihoods, vocabulary: Vocabulary) -> Iterator[Judgement]:
    """The windows after the neutral prefix are read once."""
    score = arms[0][0].examples.score
    texts = [vocabulary.text(example.window.tokens) for example in score]
    before = reader.mean_nll(_PREFIX.format(NEUTRAL), texts)
    for arm, text in arms:
        saved = before - reader.mean_nll(_PREFIX.format(text), texts)
        for example, nats in zip(score, saved.tolist(), strict=True):
            yield judged(arm.judgement(SURPRISAL, example), _verdict(nats))


def _verdict(nats: float) -> Verdict:
    if np.isfinite(nats):
        return (nats,)
    return Failure("input", "the base model cannot read it: no token, too many, or logits that are not finite")
