"""Weighted rates with their intervals.

With h_s hits of n_s judgements in stratum s of weight w_s (Σ w_s = 1; arrays [..., S]):

    p̂ = Σ w_s h_s / n_s         p̃_s = (h_s + ½) / (n_s + 1)         p̃ = Σ w_s p̃_s
    n_eff = p̃ (1 − p̃) / Σ w_s² p̃_s (1 − p̃_s) / n_s, at most 1 / Σ w_s² / n_s; all of it by the design effect D
    rate ~ Beta(p̂ n_eff + ½, (1 − p̂) n_eff + ½)

An effective sample size in a binomial interval: Korn and Graubard (1998), Confidence intervals
for proportions with small expected number of positive counts estimated from survey data,
Survey Methodology 24, 193–201. It is bounded by Kish's, of strata that are all alike: without that bound, hits in
small strata feign certainty about a large one that had none (coverage fell to 83% of nominal 95%, see
docs/metrics.md). The lower end is 0 without hits, the upper end 1 without misses; where all hits or misses lie in a
stratum of next to no weight, the interval is widened to hold p̂.

A stratum with weight but without a judgement makes the rate missing. The weight of such strata
is the *gap* g, and the bounds carry all that could be in it: [(1 − g) low, (1 − g) high + g].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

    @property
    def ends(self) -> dict[str, ndarray]:
        return {"value": self.value, "low": self.low, "high": self.high}

    @property
    def numbers(self) -> dict[str, float]:
        """The ends of one estimate."""
        return {name: end.item() for name, end in self.ends.items()}

    def columns(self, name: str) -> dict[str, ndarray]:
        """As columns of a table."""
        return {name: self.value, f"{name}.low": self.low, f"{name}.high": self.high}

    def __getitem__(self, index: Any) -> Estimate:
        return Estimate(*(np.asarray(end[index]) for end in self.ends.values()))


@dataclass(frozen=True)
class Rate(Estimate):
    """A rate: of the strata that were judged, and the weight of those that were not."""

    measured: Estimate
    size: Float[ndarray, "..."]  # n_eff
    gap: Float[ndarray, "..."]

    def __getitem__(self, index: Any) -> Rate:
        value, low, high, size, gap = (
            np.asarray(part[index]) for part in (self.value, self.low, self.high, self.size, self.gap)
        )
        return Rate(value, low, high, self.measured[index], size, gap)


def weighted_rate(
    hits: ArrayLike, n: ArrayLike, weights: ArrayLike, confidence: float, design: float | ndarray = 1.0
) -> Rate:
    """Rates [...] of hits, n and weights [..., S]; missing altogether where no stratum has weight. `design` [...], by
    which n_eff is divided, is that of judgements that go together (`metrics.clusters`)."""
    hits, n, weights = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (hits, n, weights)))
    seen = (weights > 0) & (n > 0)
    gap = _gap(weights, seen)
    share = weights * seen / _positive((weights * seen).sum(-1))[..., None]
    safe_n = np.where(seen, n, 1)
    p = np.clip((share * hits / safe_n).sum(-1), 0, 1)
    n_eff = _effective_size(share, (hits + 0.5) / (safe_n + 1), safe_n) / design
    lower, upper = _beta_ends(p * n_eff + 0.5, (1 - p) * n_eff + 0.5, confidence)
    low = np.where((hits * seen).sum(-1) == 0, 0.0, np.minimum(lower, p))
    high = np.where(((n - hits) * seen).sum(-1) == 0, 1.0, np.maximum(upper, p))
    low_end, high_end = np.asarray((1 - gap) * low), np.asarray((1 - gap) * high + gap)
    measured = Estimate(*map(np.asarray, (p, low, high)))
    return Rate(np.where(gap == 0, p, np.nan), low_end, high_end, measured, np.asarray(n_eff), gap)


def rate_values(hits: ArrayLike, n: ArrayLike, weights: ArrayLike) -> Float[ndarray, "..."]:
    """The values of `weighted_rate` alone."""
    hits, n, weights = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (hits, n, weights)))
    seen = (weights > 0) & (n > 0)
    share = weights * seen / _positive((weights * seen).sum(-1))[..., None]
    p = np.clip((share * hits / np.where(seen, n, 1)).sum(-1), 0, 1)
    return np.where(_gap(weights, seen) == 0, p, np.nan)


def _gap(weights: ndarray, seen: ndarray) -> Float[ndarray, "..."]:
    """The share of the weight in strata without a judgement; missing where there is no weight."""
    total = weights.sum(-1)
    unseen = (weights * ((weights > 0) & ~seen)).sum(-1)
    return np.where(total > 0, unseen / _positive(total), np.nan)


def _positive(total: ArrayLike) -> ndarray:
    """For a division whose result does not matter where the total is not positive."""
    return np.where(np.asarray(total) > 0, total, 1)


def _beta_ends(a: ArrayLike, b: ArrayLike, confidence: float) -> list[ndarray]:
    """Both ends. Many latents have the same counts; each different pair is looked up once."""
    pairs, which = np.unique(np.asarray(a) + 1j * np.asarray(b), return_inverse=True)
    tail = (1 - confidence) / 2
    ends = (stats.beta.ppf(level, pairs.real, pairs.imag) for level in (tail, 1 - tail))
    return [np.asarray(end[which].reshape(np.shape(a))) for end in ends]


def _effective_size(share: ndarray, smooth: ndarray, n: ndarray) -> ndarray:
    """n_eff of shares, p̃_s and n_s [..., S]; 0 where nothing was judged."""
    pooled = (share * smooth).sum(-1)
    variance, alike = (share**2 * smooth * (1 - smooth) / n).sum(-1), (share**2 / n).sum(-1)
    judged = alike > 0
    size = np.minimum(pooled * (1 - pooled) / np.where(judged, variance, 1), 1 / np.where(judged, alike, 1))
    return np.where(judged, size, 0.0)
