"""What the cache alone says of every latent, without examples and without an LLM.

firing rate r     tokens on which it fires / eligible tokens
context rate π    grid windows in which it fires / all grid windows
context dependence  1 − Σ_t f_t (f_t − 1)/(n_t − 1) / Σ_t f_t over token types with n_t ≥ 2,
                  f_t the firings on type t and n_t its eligible occurrences: 0 where the
                  token alone decides (the unbiased form of 1 − Σ f_t P(fire | t) / Σ f_t)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from numpy import ndarray

from outcrop.latents.cache import Firings, LatentCache
from outcrop.latents.windows import Grid

_ENTRIES = 8_000_000  # activations read at once


@dataclass(frozen=True)
class LatentStatistics:
    """One entry per latent; what was never measured is NaN."""

    n_fired: Int64[ndarray, "latents"]
    firing_rate: Float64[ndarray, "latents"]
    n_windows: Int64[ndarray, "latents"]
    context_rate: Float64[ndarray, "latents"]
    mean_activation: Float64[ndarray, "latents"]  # over the tokens on which it fires
    max_activation: Float64[ndarray, "latents"]
    context_dependence: Float64[ndarray, "latents"]
    context_dependence_coverage: Float64[ndarray, "latents"]  # share of the firings on types with n_t ≥ 2
    n_explain_windows: Int64[ndarray, "latents"]
    n_score_windows: Int64[ndarray, "latents"]
    n_explain_documents: Int64[ndarray, "latents"]  # that hold these windows
    n_score_documents: Int64[ndarray, "latents"]


def latent_statistics(cache: LatentCache, grid: Grid, is_score: Bool[ndarray, "documents"]) -> LatentStatistics:
    """Of all latents, a chunk of them at a time."""
    occurrences = token_counts(cache)
    parts = [_chunk(cache, grid, first, stop, occurrences, is_score) for first, stop in _chunks(cache)]
    return LatentStatistics(
        **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(LatentStatistics)}
    )


def token_counts(cache: LatentCache) -> Int64[ndarray, "types"]:
    """n_t: eligible occurrences of every token type, up to the largest id seen."""
    return np.bincount(cache.corpus.tokens[cache.eligible])


def _chunks(cache: LatentCache) -> Iterator[tuple[int, int]]:
    """Ranges of latents with about `_ENTRIES` activations, at least one latent each."""
    ends = np.cumsum(cache.n_fired)
    first = 0
    while first < cache.n_latents:
        before = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + _ENTRIES, side="right")))
        yield first, stop
        first = stop


def _chunk(
    cache: LatentCache,
    grid: Grid,
    first: int,
    stop: int,
    occurrences: Int64[ndarray, "types"],
    is_score: Bool[ndarray, "documents"],
) -> LatentStatistics:
    n = stop - first
    latent, firings = cache.read(first, stop)
    latent = latent - first
    n_fired = np.bincount(latent, minlength=n)
    window_latent, window_row = _windows(latent, firings, grid)
    n_windows = np.bincount(window_latent, minlength=n)
    window_document = grid.document[window_row]
    n_explain, n_score = _by_split(window_latent, is_score[window_document], n)
    document_latent, document = _pairs(window_latent, window_document, len(is_score))
    n_explain_documents, n_score_documents = _by_split(document_latent, is_score[document], n)
    dependence, coverage = _context_dependence(latent, cache.corpus.tokens[firings.position], n, occurrences)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(latent, weights=firings.value, minlength=n) / n_fired
    return LatentStatistics(
        n_fired=n_fired,
        firing_rate=n_fired / grid.n_eligible,
        n_windows=n_windows,
        context_rate=n_windows / grid.n_windows,
        mean_activation=mean,
        max_activation=_maximum(latent, firings, n),
        context_dependence=dependence,
        context_dependence_coverage=coverage,
        n_explain_windows=n_explain,
        n_score_windows=n_score,
        n_explain_documents=n_explain_documents,
        n_score_documents=n_score_documents,
    )


def _windows(
    latent: Int64[ndarray, "nnz"], firings: Firings, grid: Grid
) -> tuple[Int64[ndarray, "pairs"], Int64[ndarray, "pairs"]]:
    """Every pair of a latent and a grid row in which it fires, once."""
    row = grid.row_of[firings.position]
    on_grid = row >= 0
    return _pairs(latent[on_grid], row[on_grid], grid.n_windows)


def _pairs(
    latent: Int64[ndarray, "n"], other: Int[ndarray, "n"], n_others: int
) -> tuple[Int64[ndarray, "pairs"], Int64[ndarray, "pairs"]]:
    """Each different pair once, of a latent and of something else in [0, n_others)."""
    pairs = np.unique(latent * n_others + other)
    return pairs // n_others, pairs % n_others


def _by_split(
    latent: Int64[ndarray, "n"], scored: Bool[ndarray, "n"], n_latents: int
) -> tuple[Int64[ndarray, "latents"], Int64[ndarray, "latents"]]:
    """How many of each latent lie in explain and in score documents."""
    explain, score = (np.bincount(latent[part], minlength=n_latents) for part in (~scored, scored))
    return explain, score


def _maximum(latent: Int64[ndarray, "nnz"], firings: Firings, n: int) -> Float64[ndarray, "latents"]:
    maximum = np.full(n, np.nan)
    if len(latent):
        starts = np.flatnonzero(np.diff(latent, prepend=-1))
        maximum[latent[starts]] = np.maximum.reduceat(firings.value, starts)
    return maximum


def _context_dependence(
    latent: Int64[ndarray, "nnz"], token: ndarray, n: int, occurrences: Int64[ndarray, "types"]
) -> tuple[Float64[ndarray, "latents"], Float64[ndarray, "latents"]]:
    pairs, f = np.unique(latent * len(occurrences) + token, return_counts=True)
    of_latent, n_t = pairs // len(occurrences), occurrences[pairs % len(occurrences)]
    known = n_t >= 2
    of_latent, f_known, n_t = of_latent[known], f[known], n_t[known]
    explained = np.bincount(of_latent, weights=f_known * (f_known - 1) / (n_t - 1), minlength=n)
    counted = np.bincount(of_latent, weights=f_known, minlength=n)
    with np.errstate(invalid="ignore"):
        return 1 - explained / counted, counted / np.bincount(latent, minlength=n)
