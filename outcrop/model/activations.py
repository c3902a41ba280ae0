"""Activations of the eligible tokens of a corpus, batch by batch.

Contexts of similar length share a forward pass of at most `batch_tokens`, padding included.
The batches depend on the range of contexts alone, so that a range can be computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from outcrop.errors import NonFiniteError
from outcrop.model.corpus import Corpus
from outcrop.model.hooks import capture
from outcrop.model.load import LanguageModel
from outcrop.types import Hookpoint


@dataclass(frozen=True)
class PaddedContexts:
    """Some contexts as one rectangle; `position` is -1 on padding."""

    tokens: Int64[Tensor, "b t"]
    position: Int64[ndarray, "b t"]

    def eligible(self, corpus: Corpus) -> Bool[ndarray, "b t"]:
        return corpus.eligible[self.position] & (self.position >= 0)


@dataclass(frozen=True)
class Captured:
    """Activations [n d] of each hookpoint at the eligible tokens, whose positions are given."""

    position: Int64[ndarray, "n"]
    at: dict[Hookpoint, Float[Tensor, "n d"]]


def padded_batches(corpus: Corpus, contexts: range, batch_tokens: int) -> Iterator[PaddedContexts]:
    """The contexts, longest first, in rectangles of at most `batch_tokens` (or of one context)."""
    lengths = np.diff(corpus.context_start)
    order = sorted(contexts, key=lambda context: (-lengths[context], context))
    while order:
        longest = int(lengths[order[0]])
        size = max(1, batch_tokens // longest)
        yield _pad(corpus, order[:size], longest)
        order = order[size:]


def activations(
    model: LanguageModel, corpus: Corpus, contexts: range, hookpoints: Sequence[Hookpoint], batch_tokens: int
) -> Iterator[Captured]:
    """Raises NonFiniteError where a hookpoint gives NaN or an infinity."""
    for batch in padded_batches(corpus, contexts, batch_tokens):
        yield batch_activations(model, corpus, batch, hookpoints)


def batch_activations(
    model: LanguageModel, corpus: Corpus, batch: PaddedContexts, hookpoints: Sequence[Hookpoint]
) -> Captured:
    """Of one forward pass."""
    eligible = batch.eligible(corpus)
    mask = torch.from_numpy(eligible).to(model.device)
    seen = capture(model, batch.tokens.to(model.device), hookpoints)
    at = {hookpoint: seen[hookpoint][mask] for hookpoint in hookpoints}
    for hookpoint, values in at.items():
        if not torch.isfinite(values.sum(dtype=torch.float32)) and not torch.isfinite(values).all():
            raise NonFiniteError(_non_finite(hookpoint, values, batch, corpus))
    return Captured(batch.position[eligible], at)


def _pad(corpus: Corpus, contexts: Sequence[int], longest: int) -> PaddedContexts:
    start = corpus.context_start[list(contexts)]
    length = corpus.context_start[[context + 1 for context in contexts]] - start
    column = np.arange(longest)
    position = np.where(column < length[:, None], start[:, None] + column, -1)
    tokens = np.where(position >= 0, corpus.tokens[position], 0)
    return PaddedContexts(torch.from_numpy(tokens.astype(np.int64)), position)


def _non_finite(hookpoint: Hookpoint, values: Tensor, batch: PaddedContexts, corpus: Corpus) -> str:
    bad = int((~torch.isfinite(values)).any(dim=-1).sum())
    contexts = corpus.context_of[batch.position[:, 0]]
    return (
        f"{hookpoint} gave NaN or infinite activations on {bad} of {len(values)} tokens, in the batch of contexts "
        f"{', '.join(map(str, contexts[:4].tolist()))}{' …' if len(contexts) > 4 else ''}. "
        "Try --model.dtype float32."
    )
