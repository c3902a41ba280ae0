"""How well scores rank activating windows above the others: AUROC and average precision, of many latents at once.

The windows of N latents lie flat, [n]: the score of each, the latent (*row*) it belongs to, and its stratum (*cell*).
The first cells hold the activating windows. A window weighs its cell's weight over the windows in the cell; within a
latent the weights u_i of activating windows sum to 1, and so do the v_j of the others.

    AUROC    Σ_i u_i A_i                A_i = Σ_j v_j ([s_i > s_j] + ½ [s_i = s_j])
    AP       Σ_i u_i P_i                P_i = π R_i / (π R_i + (1 − π) F_i), precision at the context rate π
             R_i = Σ_k u_k [s_k ≥ s_i]  F_i = Σ_j v_j [s_j ≥ s_i]

Intervals: Σ W_c² s_c² / n_c with s_c² the variance, within cell c of weight W_c, of what a window contributes (AUROC:
the structural components of DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, 837–845; AP: the infinitesimal
jackknife), on the logit scale, so that they stay within [0, 1]. This is what the bootstrap within strata tends to.
Where all windows of each cell contribute alike, as where the sample separates perfectly, it says nothing, and the ends
are missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import expit, logit
from scipy.stats import norm

from outcrop.metrics.rates import Estimate

_ROUNDING = 1e-9  # a variance below it is none


@dataclass(frozen=True)
class Ranking:
    """Windows sorted by row and rising score, with what they weigh. `of` makes one."""

    row: Int[ndarray, "n"]
    cell: Int[ndarray, "n"]
    positive: Bool[ndarray, "n"]
    weight: Float[ndarray, "n"]
    first: Int[ndarray, "n"]  # of the windows with the same row and score
    end: Int[ndarray, "n"]
    size: Int[ndarray, "N C"]
    share: Float[ndarray, "N C"]  # cell weights, of each class scaled to sum 1; NaN where one with weight is empty
    n_positive_cells: int
    confidence: float

    @staticmethod
    def of(
        score: Float[ndarray, "n"],
        row: Int[ndarray, "n"],
        cell: Int[ndarray, "n"],
        weights: Float[ndarray, "N C"],
        n_positive_cells: int,
        confidence: float,
    ) -> Ranking:
        """Windows without a score are left out."""
        known = np.flatnonzero(~np.isnan(score))
        order = known[order_within(row[known], score[known])]
        score, row, cell = score[order], row[order], cell[order]
        n, n_cells = len(score), weights.shape[1]
        size = np.bincount(row * n_cells + cell, minlength=weights.size).reshape(weights.shape)
        parts = np.split(weights, [n_positive_cells], axis=1), np.split(size, [n_positive_cells], axis=1)
        share = np.concatenate([_shares(*part) for part in zip(*parts, strict=True)], axis=1)
        starts = np.flatnonzero(np.r_[True, (np.diff(row) != 0) | (np.diff(score) != 0)][:n])
        lengths = np.diff(np.r_[starts, n])
        first = np.repeat(starts, lengths)
        positive = cell < n_positive_cells
        weight = share[row, cell] / size[row, cell]
        end = first + np.repeat(lengths, lengths)
        return Ranking(row, cell, positive, weight, first, end, size, share, n_positive_cells, confidence)

    def auroc(self) -> Estimate:
        """[N]; missing where a class is missing."""
        up, down = self._class_weights()
        below, at_most = self._before(down, self.first), self._before(down, self.end)
        won = (below + at_most) / 2
        lost = (self._before(up, self.first) + self._before(up, self.end)) / 2
        return self._estimate(self._total(up * won), np.where(self.positive, won, 1 - lost))

    def average_precision(self, prevalence: Float[ndarray, "N"]) -> Estimate:
        """[N]; missing where a class is missing."""
        up, down = self._class_weights()
        rate = prevalence[self.row]
        hits, alarms = rate * (1 - self._before(up, self.first)), (1 - rate) * (1 - self._before(down, self.first))
        predicted = np.where(hits + alarms > _ROUNDING * rate, hits + alarms, np.nan)
        precision = hits / predicted
        to_hits, to_alarms = (np.nan_to_num(up * part / predicted**2) for part in (rate * alarms, -(1 - rate) * hits))
        by_hits, by_alarms = self._before(to_hits, self.end), self._before(to_alarms, self.end)
        influence = np.where(self.positive, precision + by_hits, by_alarms)
        return self._estimate(self._total(np.nan_to_num(up * precision)), influence)

    def _class_weights(self) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
        weight = np.nan_to_num(self.weight)  # of rows that are missing altogether
        return np.where(self.positive, weight, 0.0), np.where(self.positive, 0.0, weight)

    def _before(self, values: Float[ndarray, "n"], end: Int[ndarray, "n"]) -> Float[ndarray, "n"]:
        """Of each window the sum over those of its row that stand before `end`."""
        sums = np.r_[0.0, np.cumsum(values)]
        start = np.searchsorted(self.row, np.arange(len(self.size)))
        return np.asarray(sums[end] - sums[start][self.row])

    def _total(self, values: Float[ndarray, "n"]) -> Float[ndarray, "N"]:
        missing = np.isnan(self.share).any(axis=1)
        return np.where(missing, np.nan, np.bincount(self.row, weights=values, minlength=len(self.size)))

    def _estimate(self, value: Float[ndarray, "N"], influence: Float[ndarray, "n"]) -> Estimate:
        value = np.clip(value, 0, 1)
        error = np.sqrt(self._variance(influence))
        inside = (value > _ROUNDING) & (value < 1 - _ROUNDING) & (error > _ROUNDING)
        safe = np.where(inside, value, 0.5)
        reach = norm.ppf((1 + self.confidence) / 2) * error / (safe * (1 - safe))
        low, high = (np.where(inside, expit(logit(safe) + end * reach), np.nan) for end in (-1, 1))
        return Estimate(value, low, high)

    def _variance(self, influence: Float[ndarray, "n"]) -> Float[ndarray, "N"]:
        """Of a weighted mean over cells. A cell of one window has the spread of all of its class."""
        n_cells = self.size.shape[1]
        own = _spread(influence, self.row * n_cells + self.cell, self.size.size).reshape(self.size.shape)
        of_class = _spread(influence, self.row * 2 + self.positive, 2 * len(self.size)).reshape(-1, 2)
        pooled = np.where(np.arange(n_cells) < self.n_positive_cells, of_class[:, [1]], of_class[:, [0]])
        spread = np.where(self.size > 1, own, pooled)
        counted = (self.share > 0) & (self.size > 0)
        return np.where(counted, self.share**2 * spread / np.maximum(self.size, 1), 0.0).sum(axis=1)


def order_within(group: Int[ndarray, "n"], key: Float[ndarray, "n"] | Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """By group and then by rising key, equal ones as they stand: `np.lexsort`, and faster where groups lie one behind
    the other and are of about one size. No key is NaN."""
    size = np.bincount(group)
    if (np.diff(group) < 0).any() or size.size * size.max(initial=0) > 2 * len(group):
        return np.lexsort((key, group))
    start, column = np.cumsum(size) - size, np.arange(size.max(initial=0))
    padded = np.full((len(size), len(column)), np.inf)
    there = column < size[:, None]
    padded[there] = key
    return (start[:, None] + np.argsort(padded, axis=1, kind="stable"))[there]


def _shares(weights: Float[ndarray, "N c"], size: Int[ndarray, "N c"]) -> Float[ndarray, "N c"]:
    total = weights.sum(axis=1)
    missing = (total <= 0) | ((weights > 0) & (size == 0)).any(axis=1)
    return np.asarray(weights / np.where(missing, np.nan, total)[:, None])


def _spread(values: Float[ndarray, "n"], group: Int[ndarray, "n"], n_groups: int) -> Float[ndarray, "groups"]:
    """The variance within each group, by n − 1; 0 in groups of one."""
    n = np.bincount(group, minlength=n_groups)
    mean = np.bincount(group, weights=values, minlength=n_groups) / np.maximum(n, 1)
    squares = np.bincount(group, weights=(values - mean[group]) ** 2, minlength=n_groups)
    return np.asarray(squares / np.maximum(n - 1, 1))
