"""How much of a dictionary the scored latents stand for, and averages over them.

    coverage          Σ r over scored latents / Σ r over all; also with r · mean activation
    Hájek weights     r_i / p_i for latents sampled with probability p_i
    weighted mean     m = Σ w_i s_i / Σ w_i within a group (a hookpoint), then averaged over groups
    effective size    n_eff = (Σ w)² / Σ w²
    macro mean        every weight 1, one group

Scores are [N, K]: N latents, K metrics. A missing score is left out of its own column only.

Intervals of means: t with Σ n_eff − groups degrees of freedom, and the variance of the linearised ratio,
Σ w² (s − m)² / (Σ w)² · n_eff / (n_eff − 1) in each group (Särndal, Swensson and Wretman 1992, Model assisted survey
sampling, 5.7); so a mean that one latent carries has no interval. Of medians: the order statistics between which the
binomial distribution puts the median. Where all latents score the same nothing is known of their spread, and there is
no interval either.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import stats

from outcrop.metrics.rates import Estimate


def status_counts(status: Iterable[str], names: tuple[str, ...]) -> dict[str, int]:
    """Latents per status, every status named; together all latents."""
    counts = dict.fromkeys(names, 0)
    for name in status:
        counts[name] += 1
    return counts


def coverage(weights: Float[ndarray, "M"], scored: Bool[ndarray, "M"]) -> float:
    """Share of the weight that scored latents carry; NaN where there is no weight."""
    total = float(np.nansum(weights))
    return float(np.nansum(weights[scored])) / total if total > 0 else float("nan")


def hajek_weights(size: Float[ndarray, "N"], probability: Float[ndarray, "N"]) -> Float[ndarray, "N"]:
    return np.asarray(size / probability)


def effective_sample_size(weights: Float[ndarray, "N"]) -> float:
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def group_shares(weights: Float[ndarray, "N"], groups: Int[ndarray, "N"]) -> Float[ndarray, "N"]:
    """What each latent counts for in the average over groups; within a group Σ = 1."""
    totals = np.bincount(groups, weights=weights)
    return np.asarray(weights / totals[groups])


def weighted_mean(
    scores: Float[ndarray, "N K"], weights: Float[ndarray, "N"], groups: Int[ndarray, "N"], confidence: float
) -> Estimate:
    """The mean of each column [K]; a group without a value in a column is left out of it."""
    return _columns([_mean(column, weights, groups, confidence) for column in scores.T])


def macro_mean(scores: Float[ndarray, "N K"], confidence: float) -> Estimate:
    n = len(scores)
    return weighted_mean(scores, np.ones(n), np.zeros(n, dtype=np.int64), confidence)


def median(scores: Float[ndarray, "N K"], confidence: float) -> Estimate:
    """[K]; for scores that are unbounded."""
    return _columns([_median(np.sort(column[~np.isnan(column)]), confidence) for column in scores.T])


def unscored_at(scores: Float[ndarray, "N"], value: float) -> Float[ndarray, "N"]:
    """The scores with the missing ones at a value: chance, or the best possible."""
    return np.where(np.isnan(scores), value, scores)


_Triple = tuple[float, float, float]  # value, low, high
_MISSING = float("nan")
_ROUNDING = 1e-12  # of scores that are the same but for the floats


def _columns(triples: list[_Triple]) -> Estimate:
    return Estimate(*np.array(triples, dtype=np.float64).reshape(-1, 3).T)


def _alike(scores: Float[ndarray, "N"]) -> bool:
    return bool(np.ptp(scores) <= _ROUNDING * max(1.0, float(np.abs(scores).max())))


def _mean(scores: Float[ndarray, "N"], weights: ndarray, groups: ndarray, confidence: float) -> _Triple:
    used = ~np.isnan(scores) & (weights > 0)
    if not used.any():
        return _MISSING, _MISSING, _MISSING
    scores, weights, groups = scores[used], weights[used], groups[used]
    share = group_shares(weights, groups)
    there = np.flatnonzero(np.bincount(groups))
    means = np.bincount(groups, weights=share * scores)
    value, n_groups = float(means[there].mean()), len(there)
    sizes = 1 / np.bincount(groups, weights=share**2)[there]
    freedom = float(sizes.sum()) - n_groups
    if _alike(scores) or (sizes <= 1).any():
        return value, _MISSING, _MISSING
    variance = np.bincount(groups, weights=(share * (scores - means[groups])) ** 2)[there] * sizes / (sizes - 1)
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance.sum()) / n_groups)
    return value, value - reach, value + reach


def _median(ordered: Float[ndarray, "n"], confidence: float) -> _Triple:
    n = len(ordered)
    if n == 0:
        return _MISSING, _MISSING, _MISSING
    value = float(np.median(ordered))
    rank = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))  # P(fewer than so many lie below) is at most half of it
    if rank == 0 or _alike(ordered):
        return value, _MISSING, _MISSING
    return value, float(ordered[rank - 1]), float(ordered[n - rank])
