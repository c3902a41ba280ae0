"""How much of a dictionary the scored latents stand for, and averages over them.

    coverage          Σ r over scored latents / Σ r over all; also with r · mean activation
    Hájek weights     r_i / p_i for latents sampled with probability p_i
    weighted mean     Σ w_i s_i / Σ w_i within a group (a hookpoint), then averaged over groups
    effective size    (Σ w)² / Σ w²
    macro mean        every weight 1, one group

Scores are [N, K]: N latents, K metrics. A missing score is left out of its own column only.
Intervals: latents redrawn with replacement within their group. Where all latents score the same,
redrawing them says nothing of the uncertainty, and there is no interval.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.metrics.rates import Estimate, Sampling


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
    totals = np.zeros(int(groups.max(initial=-1)) + 1)
    np.add.at(totals, groups, weights)
    return np.asarray(weights / totals[groups])


def weighted_mean(
    scores: Float[ndarray, "N K"], weights: Float[ndarray, "N"], groups: Int[ndarray, "N"], sampling: Sampling
) -> Estimate:
    """The mean of each column [K]."""
    value = _grouped_mean(np.ones((1, len(weights))), scores, weights, groups)[0]
    draws = _grouped_mean(_resampled_counts(groups, sampling), scores, weights, groups)
    return _bounded(scores, value, draws, sampling)


def macro_mean(scores: Float[ndarray, "N K"], sampling: Sampling) -> Estimate:
    n = len(scores)
    return weighted_mean(scores, np.ones(n), np.zeros(n, dtype=np.int64), sampling)


def median(scores: Float[ndarray, "N K"], sampling: Sampling) -> Estimate:
    """[K]; for scores that are unbounded."""
    parts = [_median(column[~np.isnan(column)], sampling) for column in scores.T]
    return Estimate(*(np.array([getattr(part, name) for part in parts]) for name in ("value", "low", "high")))


def unscored_at(scores: Float[ndarray, "N"], value: float) -> Float[ndarray, "N"]:
    """The scores with the missing ones at a value: chance, or the best possible."""
    return np.where(np.isnan(scores), value, scores)


def _resampled_counts(groups: ndarray, sampling: Sampling) -> Float[ndarray, "draws N"]:
    """How often each latent is drawn."""
    counts = np.zeros((sampling.draws, len(groups)))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        counts[:, members] = sampling.redraw(len(members))
    return counts


def _grouped_mean(counts: ndarray, scores: ndarray, weights: ndarray, groups: ndarray) -> ndarray:
    """[draws, K] of counts [draws, N]; a group without a value in a column is left out of it."""
    present = ~np.isnan(scores)
    weighted, mass = weights[:, None] * np.where(present, scores, 0), weights[:, None] * present
    sums, n_groups = np.zeros((len(counts), scores.shape[1])), np.zeros((len(counts), scores.shape[1]))
    for group in np.unique(groups):
        members = groups == group
        total = counts[:, members] @ mass[members]
        sums += counts[:, members] @ weighted[members] / np.where(total > 0, total, 1)
        n_groups += total > 0
    return np.where(n_groups > 0, sums / np.where(n_groups > 0, n_groups, 1), np.nan)


def _bounded(scores: ndarray, value: ndarray, draws: ndarray, sampling: Sampling) -> Estimate:
    """Per column, over the draws that hold a value at all."""
    low, high = np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    for column in np.flatnonzero([_varies(values) for values in scores.T]):
        kept = draws[~np.isnan(draws[:, column]), column]
        estimate = sampling.interval(value[column], kept, kept)
        low[column], high[column] = estimate.low, estimate.high
    return Estimate(value, low, high)


def _varies(values: ndarray) -> bool:
    known = values[~np.isnan(values)]
    return known.size > 0 and bool(known.min() < known.max())


def _median(values: ndarray, sampling: Sampling) -> Estimate:
    missing = np.array(np.nan)
    if not _varies(values):
        return Estimate(np.asarray(values[0]) if len(values) else missing, missing, missing)
    draws = np.median(values[sampling.generator.integers(len(values), size=(sampling.draws, len(values)))], axis=1)
    return sampling.interval(np.median(values), draws, draws)
