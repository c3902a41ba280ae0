"""Weighted rates with their intervals.

With h_s hits of n_s judgements in stratum s of weight w_s (Σ w_s = 1; arrays [..., S]):

    p̂ = Σ w_s h_s / n_s         p̃_s = (h_s + ½) / (n_s + 1)         p̃ = Σ w_s p̃_s
    n_eff = p̃ (1 − p̃) / Σ w_s² p̃_s (1 − p̃_s) / n_s
    rate ~ Beta(p̂ n_eff + ½, (1 − p̂) n_eff + ½)

An effective sample size in a binomial interval: Korn and Graubard (1998), Confidence intervals
for proportions with small expected number of positive counts estimated from survey data,
Survey Methodology 24, 193–201. The lower end is 0 without hits, the upper end 1 without misses;
where all hits or misses lie in a stratum of next to no weight, the interval is widened to hold p̂.

A stratum with weight but without a judgement makes the rate missing. The weight of such strata
is the *gap* g, and the bounds carry all that could be in it: [(1 − g) low, (1 − g) high + g].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A value and the two ends of its interval."""

    value: Float[ndarray, "..."]
    low: Float[ndarray, "..."]
    high: Float[ndarray, "..."]


@dataclass(frozen=True)
class Rate(Estimate):
    """A rate: of the strata that were judged, and the weight of those that were not."""

    measured: Estimate
    gap: Float[ndarray, "..."]


@dataclass(frozen=True)
class Sampling:
    """How intervals are drawn."""

    generator: np.random.Generator
    draws: int
    confidence: float

    def interval(self, value: ArrayLike, low: ndarray, high: ndarray) -> Estimate:
        """The equal-tailed interval of draws [draws, ...], widened where it leaves out the value.

        A value at the end of its range (no false positive seen) lies beyond every draw.
        """
        tail = (1 - self.confidence) / 2
        lower, upper = np.quantile(low, tail, axis=0), np.quantile(high, 1 - tail, axis=0)
        return Estimate(np.asarray(value), np.where(value < lower, value, lower), np.where(value > upper, value, upper))

    def redraw(self, n: int) -> Float[ndarray, "draws n"]:
        """The bootstrap: how often each of n is drawn, when n are drawn with replacement."""
        drawn = self.generator.integers(n, size=(self.draws, n)) + n * np.arange(self.draws)[:, None]
        return np.bincount(drawn.ravel(), minlength=self.draws * n).reshape(self.draws, n).astype(np.float64)


def weighted_rate(hits: ArrayLike, n: ArrayLike, weights: ArrayLike, confidence: float) -> Rate:
    """Rates [...] of hits, n and weights [..., S]; NaN altogether where no stratum has weight."""
    hits, n, weights = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (hits, n, weights)))
    seen = (weights > 0) & (n > 0)
    total, measured = weights.sum(-1), (weights * seen).sum(-1)
    gap = np.where(total > 0, (weights * ((weights > 0) & ~seen)).sum(-1) / np.where(total > 0, total, 1), np.nan)
    share = weights * seen / np.where(measured > 0, measured, 1)[..., None]
    safe_n = np.where(seen, n, 1)
    p = np.clip((share * hits / safe_n).sum(-1), 0, 1)
    n_eff = _effective_size(share, (hits + 0.5) / (safe_n + 1), safe_n)
    a, b = p * n_eff + 0.5, (1 - p) * n_eff + 0.5
    tail = (1 - confidence) / 2
    low = np.where((hits * seen).sum(-1) == 0, 0.0, stats.beta.ppf(tail, a, b))
    high = np.where(((n - hits) * seen).sum(-1) == 0, 1.0, stats.beta.ppf(1 - tail, a, b))
    measured = Estimate(p, np.minimum(low, p), np.maximum(high, p))
    ends = (1 - gap) * measured.low, (1 - gap) * measured.high + gap
    return Rate(np.where(gap == 0, p, np.nan), *ends, measured, np.asarray(gap))


def _effective_size(share: ndarray, smooth: ndarray, n: ndarray) -> ndarray:
    """n_eff of shares, p̃_s and n_s [..., S]; 0 where nothing was judged."""
    pooled = (share * smooth).sum(-1)
    variance = (share**2 * smooth * (1 - smooth) / n).sum(-1)
    return np.where(variance > 0, pooled * (1 - pooled) / np.where(variance > 0, variance, 1), 0.0)
