"""Differences between the scores of two runs, second − first.

Paired, where both scored the same latents: mean or median of the latents' differences (`coverage`).

Unpaired, where the coders differ: scores depend on how often a latent fires, so latents are compared within bins of log
firing rate,

    Σ_b w_b (m̄₂_b − m̄₁_b)        w_b the share of bin b among the latents of both runs
    variance Σ_b w_b² (s₁²_b/n₁_b + s₂²_b/n₂_b)

over the bins in which both have at least two latents; degrees of freedom by Welch (1947) and Satterthwaite.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from outcrop.metrics.rates import Estimate

N_BINS = 8
_MISSING = Estimate(*(np.array(np.nan) for _ in range(3)))


def unpaired(
    first: Float[ndarray, "n"],
    first_rate: Float[ndarray, "n"],
    second: Float[ndarray, "m"],
    second_rate: Float[ndarray, "m"],
    confidence: float,
) -> tuple[Estimate, int]:
    """The difference of means within bins of firing rate, and how many latents lie in the bins that count."""
    scores, rates = zip(*(_known(*of) for of in ((first, first_rate), (second, second_rate))), strict=True)
    bins = _bins(*rates)
    size, mean, variance = (np.array(part) for part in zip(*map(_moments, scores, bins), strict=True))
    shared = (size >= 2).all(axis=0)
    if not shared.any():
        return _MISSING, 0
    n, parts = size[:, shared], variance[:, shared] / size[:, shared]
    weight = n.sum(axis=0) / n.sum()
    value = float(weight @ (mean[1] - mean[0])[shared])
    spread = weight**2 * parts
    total = float(spread.sum())
    if total <= 0:
        return Estimate(np.array(value), _MISSING.low, _MISSING.high), int(n.sum())
    freedom = total**2 / float((spread**2 / (n - 1)).sum())
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * total**0.5
    return Estimate(*map(np.array, (value, value - reach, value + reach))), int(n.sum())


def _known(scores: ndarray, rates: ndarray) -> tuple[ndarray, ndarray]:
    known = ~np.isnan(scores)
    return scores[known], rates[known]


def _bins(*rates: ndarray) -> list[ndarray]:
    """Of each run, over the range of both."""
    logs = [np.log(rate) for rate in rates]
    together = np.concatenate(logs)
    if not len(together):
        return [np.empty(0, dtype=np.int64) for _ in rates]
    edges = np.linspace(together.min(), together.max(), N_BINS + 1)[1:-1]
    return [np.digitize(of, edges) for of in logs]


def _moments(scores: ndarray, bins: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """n, mean and variance of each bin."""
    n = np.bincount(bins, minlength=N_BINS)
    mean = np.bincount(bins, weights=scores, minlength=N_BINS) / np.maximum(n, 1)
    squares = np.bincount(bins, weights=(scores - mean[bins]) ** 2, minlength=N_BINS)
    return n, mean, squares / np.maximum(n - 1, 1)
