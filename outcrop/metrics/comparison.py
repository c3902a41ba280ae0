"""Differences between the scores of two runs, second − first.

Paired, where both scored the same latents: mean or median of the latents' differences (`coverage`).

Unpaired, where the coders differ: scores depend on how often a latent fires, so latents are compared within a place,
such as a hookpoint, and there within bins of log firing rate,

    Σ_b w_b (m̄₂_b − m̄₁_b)        w_b the share of bin b of a place among the latents of both runs
    variance Σ_b w_b² (s₁²_b/n₁_b + s₂²_b/n₂_b)

over the bins in which both have at least two latents; degrees of freedom by Welch (1947) and Satterthwaite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import stats

from outcrop.metrics.rates import Estimate

N_BINS = 8
_MISSING = Estimate(*(np.array(np.nan) for _ in range(3)))


@dataclass(frozen=True)
class Population:
    """The latents of a run."""

    score: Float[ndarray, "n"]
    rate: Float[ndarray, "n"]  # firing rate
    place: Int[ndarray, "n"]

    def of(self, rows: Bool[ndarray, "n"]) -> Population:
        return Population(self.score[rows], self.rate[rows], self.place[rows])


def unpaired(first: Population, second: Population, confidence: float) -> tuple[Estimate, int]:
    """The difference of means within bins of firing rate, and how many latents lie in the bins that count."""
    runs = [of.of(~np.isnan(of.score)) for of in (first, second)]
    bins = _bins(*runs)
    n_bins = max(int(of.max(initial=0)) for of in bins) + 1
    moments = (_moments(of.score, which, n_bins) for of, which in zip(runs, bins, strict=True))
    size, mean, variance = (np.array(part) for part in zip(*moments, strict=True))
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


def _bins(*runs: Population) -> list[Int[ndarray, "n"]]:
    """Of each run, over the range of both; those of each place behind those of the one before."""
    logs = [np.log(of.rate) for of in runs]
    together = np.concatenate(logs)
    low = together.min(initial=0.0)  # no logarithm of a rate is above
    edges = np.linspace(low, together.max(initial=low), N_BINS + 1)[1:-1]
    return [of.place * N_BINS + np.digitize(rates, edges) for of, rates in zip(runs, logs, strict=True)]


def _moments(scores: ndarray, bins: ndarray, n_bins: int) -> tuple[ndarray, ndarray, ndarray]:
    """n, mean and variance of each bin."""
    n = np.bincount(bins, minlength=n_bins)
    mean = np.bincount(bins, weights=scores, minlength=n_bins) / np.maximum(n, 1)
    squares = np.bincount(bins, weights=(scores - mean[bins]) ** 2, minlength=n_bins)
    return n, mean, squares / np.maximum(n - 1, 1)
