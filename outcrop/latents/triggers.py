"""The token types that set a latent off.

Triggers are types with P(fire | t) ≥ 10 r, by falling share of the firings, at most 16. If they cover less than half
of the firings the latent is *diffuse*; if P(fire | t) ≥ 0.99 for all of them it is a *pure token latent*.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from numpy import ndarray
from scipy.sparse import csr_array

_LIFT, _MOST, _COVER, _PURE = 10, 16, 0.5, 0.99


@dataclass(frozen=True)
class Triggers:
    """Those of every latent, behind one another: latent i owns indptr[i] : indptr[i + 1]."""

    indptr: Int64[ndarray, "latents_plus_1"]
    token: Int64[ndarray, "triggers"]
    share: Float64[ndarray, "triggers"]  # of the latent's firings
    probability: Float64[ndarray, "triggers"]  # P(fire | token)
    cover: Float64[ndarray, "latents"]  # share of the firings on triggers; NaN where it never fired

    @cached_property
    def diffuse(self) -> Bool[ndarray, "latents"]:
        return self.cover < _COVER

    @cached_property
    def pure(self) -> Bool[ndarray, "latents"]:
        below = np.bincount(self._latent, weights=self.probability < _PURE, minlength=len(self.cover))
        return (self.cover >= _COVER) & (below == 0)

    def of(self, latent: int) -> slice:
        return slice(int(self.indptr[latent]), int(self.indptr[latent + 1]))

    def first(self, latent: int) -> int | None:
        """The one with the largest share; None of a diffuse latent, and of one that never fired."""
        return int(self.token[self.indptr[latent]]) if self.cover[latent] >= _COVER else None

    @property
    def _latent(self) -> Int64[ndarray, "triggers"]:
        return np.repeat(np.arange(len(self.cover)), np.diff(self.indptr))


def joined(parts: Iterable[Triggers]) -> Triggers:
    """Those of some latents behind those of others."""
    each = list(parts)
    n = np.concatenate([np.diff(part.indptr) for part in each])
    columns = ("token", "share", "probability", "cover")
    return Triggers(np.append(0, np.cumsum(n)), *(np.concatenate([getattr(p, c) for p in each]) for c in columns))


def find_triggers(tokens: csr_array, occurrences: Int[ndarray, "types"]) -> Triggers:
    """From the firings [latents types] and the eligible occurrences of each type."""
    n = tokens.shape[0]
    n_fired = tokens.sum(axis=1)
    sizes = np.diff(tokens.indptr)
    probability = tokens.data / occurrences[tokens.indices]
    often = np.flatnonzero(probability >= np.repeat(_LIFT * (n_fired / occurrences.sum()), sizes))
    latent = np.repeat(np.arange(n), sizes)[often]
    most = int(tokens.data.max(initial=0))  # one key is sorted faster than two; equal ones stay in the order of types
    order = np.argsort(latent * (most + 1) + most - tokens.data[often], kind="stable")
    start = np.searchsorted(latent, np.arange(n + 1))
    order = order[np.arange(len(order)) - start[latent] < _MOST]
    fired, latent, order = tokens.data[often[order]], latent[order], often[order]
    with np.errstate(invalid="ignore"):
        cover = np.bincount(latent, weights=fired, minlength=n) / n_fired
    indptr = np.searchsorted(latent, np.arange(n + 1))
    return Triggers(indptr, tokens.indices[order].astype(np.int64), fired / n_fired[latent], probability[order], cover)
