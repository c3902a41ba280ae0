"""What the cache alone says of every latent, without examples and without an LLM.

firing rate r     tokens on which it fires / eligible tokens
context rate π    grid windows in which it fires / all grid windows
context dependence  1 − Σ_t f_t (f_t − 1)/(n_t − 1) / Σ_t f_t over token types with n_t ≥ 2,
                  f_t the firings on type t and n_t its eligible occurrences: 0 where the
                  token alone decides (the unbiased form of 1 − Σ f_t P(fire | t) / Σ f_t)
dense             r > 0.1
positional        at least half of the firings are at places in the context where it fires 4 r or more often
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_array

from outcrop.latents.cache import LatentCache
from outcrop.latents.counts import N_PLACES, chunks, count, place
from outcrop.latents.triggers import Triggers, find_triggers, joined
from outcrop.latents.windows import Grid
from outcrop.progress import Progress, silent

DENSE_RATE = 0.1
_PLACE_LIFT, _PLACE_COVER = 4, 0.5
_PAIRS = 1 << 18  # of a latent and a token type, looked at together


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
    histogram: Int64[ndarray, "latents 32"]  # firings by activation, in bins of a factor of 2 (see `counts`)
    place_rate: Float64[ndarray, "latents 16"]  # P(fire | place in the context); NaN where no token is
    positional: Bool[ndarray, "latents"]
    triggers: Triggers

    @property
    def dense(self) -> Bool[ndarray, "latents"]:
        return self.firing_rate > DENSE_RATE


def latent_statistics(
    cache: LatentCache, grid: Grid, is_score: Bool[ndarray, "documents"], progress: Progress = silent
) -> LatentStatistics:
    """Of all latents, from counts that are kept beside the shards."""
    counts = count(cache, grid, is_score, progress)
    occurrences = token_counts(cache)

    def by_token(latents: tuple[int, int]) -> tuple[ndarray, ndarray, Triggers]:
        block = counts.tokens[slice(*latents)]
        return *context_dependence(block, occurrences), find_triggers(block, occurrences)

    ranges = chunks(np.diff(counts.tokens.indptr), _PAIRS)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        dependence, coverage, triggers = zip(*threads.map(by_token, ranges), strict=True)
    place_rate, positional = _places(counts.places, cache)
    n_windows = counts.n_windows.sum(axis=1)
    with np.errstate(invalid="ignore"):
        mean = counts.total / counts.n_fired
    return LatentStatistics(
        n_fired=counts.n_fired,
        firing_rate=counts.n_fired / grid.n_eligible,
        n_windows=n_windows,
        context_rate=n_windows / grid.n_windows,
        mean_activation=mean,
        max_activation=np.where(counts.n_fired > 0, counts.maximum.astype(np.float64), np.nan),
        context_dependence=np.concatenate(dependence),
        context_dependence_coverage=np.concatenate(coverage),
        n_explain_windows=counts.n_windows[:, 0],
        n_score_windows=counts.n_windows[:, 1],
        n_explain_documents=counts.n_documents[:, 0],
        n_score_documents=counts.n_documents[:, 1],
        histogram=counts.histogram,
        place_rate=place_rate,
        positional=positional,
        triggers=joined(triggers),
    )


def token_counts(cache: LatentCache) -> Int64[ndarray, "types"]:
    """n_t: eligible occurrences of every token type of the corpus."""
    return np.bincount(cache.corpus.tokens[cache.eligible], minlength=int(cache.corpus.tokens.max()) + 1)


def context_dependence(
    tokens: csr_array, occurrences: Int64[ndarray, "types"]
) -> tuple[Float64[ndarray, "latents"], Float64[ndarray, "latents"]]:
    """Of firings [latents types], with the share of them on types that occur more than once."""
    f, n_t = tokens.data.astype(np.float64), occurrences[tokens.indices]
    explained = _row_sums(f * (f - 1) / np.maximum(n_t - 1, 1), tokens)  # nothing of a type that occurs once: f is 1
    counted = _row_sums(f * (n_t >= 2), tokens)
    with np.errstate(invalid="ignore"):
        return 1 - explained / counted, counted / _row_sums(f, tokens)


def _row_sums(values: Float64[ndarray, "nnz"], like: csr_array) -> Float64[ndarray, "rows"]:
    """Of values that stand where those of a sparse matrix do."""
    return csr_array((values, like.indices, like.indptr), shape=like.shape) @ np.ones(like.shape[1])


def _places(
    places: Int64[ndarray, "latents 16"], cache: LatentCache
) -> tuple[Float64[ndarray, "latents 16"], Bool[ndarray, "latents"]]:
    """P(fire | place), and who is positional."""
    n_tokens = np.bincount(place(cache.corpus.offset_of[cache.eligible]), minlength=N_PLACES)
    n_fired = places.sum(axis=1)
    with np.errstate(invalid="ignore"):
        rate = places / n_tokens
    often = rate >= _PLACE_LIFT * (n_fired / n_tokens.sum())[:, None]
    return rate, (n_fired > 0) & ((places * often).sum(axis=1) >= _PLACE_COVER * n_fired)
