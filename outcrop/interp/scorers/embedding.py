"""Embedding: how near are explanation and window in meaning? Asks no LLM.

    measured = (cosine,)    of their sentence embeddings

The control without an explanation has no text, so there is none; that by another latent's explanation stands beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jaxtyping import Float32
from numpy import ndarray

from outcrop.errors import ModelError
from outcrop.interp.scorers.judging import Arm, Verdict, judged, with_text
from outcrop.model.embed import Embedder
from outcrop.progress import Progress, silent
from outcrop.schema import EMBEDDING
from outcrop.types import Failure, Judgement, Vocabulary

_AT_ONCE = 1_024  # texts

Row = Float32[ndarray, "d"] | Failure


def embedding_scores(
    arms: Sequence[Arm], embedder: Embedder, vocabulary: Vocabulary, progress: Progress = silent
) -> Iterator[Judgement]:
    """One judgement per scored window of the arms plain and other. Each different text is embedded once; one that
    has no finite embedding is a failure wherever it stands."""
    chosen = with_text(arms)
    row = _embedded(list(dict.fromkeys(_texts(chosen, vocabulary))), embedder, progress)
    for arm, text in chosen:
        for example in arm.examples.score:
            verdict = _cosine(row[text], row[vocabulary.text(example.window.tokens)])
            yield judged(arm.judgement(EMBEDDING, example), verdict)


def _texts(arms: Iterable[tuple[Arm, str]], vocabulary: Vocabulary) -> Iterator[str]:
    for arm, text in arms:
        yield text
        yield from (vocabulary.text(example.window.tokens) for example in arm.examples.score)


def _embedded(texts: Sequence[str], embedder: Embedder, progress: Progress) -> dict[str, Row]:
    found: dict[str, Row] = {}
    with progress("score by embedding", len(texts), "texts") as advance:
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            found.update(zip(some, embedded_rows(some, embedder), strict=True))
            advance(len(some))
    return found


def embedded_rows(texts: Sequence[str], embedder: Embedder) -> list[Row]:
    """Those of texts, one by one where they cannot be embedded together: a failure each that has none."""
    try:
        return list(embedder(texts))
    except ModelError as error:
        if len(texts) == 1:
            return [Failure("input", str(error))]
        return [row for text in texts for row in embedded_rows([text], embedder)]


def _cosine(explanation: Row, window: Row) -> Verdict:
    if isinstance(explanation, Failure):
        return explanation
    return window if isinstance(window, Failure) else (float(explanation @ window),)
