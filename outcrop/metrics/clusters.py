"""Judgements of windows of one document tend to go together, so that they say less than as many of different ones.

Over pairs of windows of one cell, those of one document (same) and those of two (apart), of W_c and B_c pairs:

    ρ = 1 − Σ_c Σ_same (x_i − x_j)² / Σ_c W_c / B_c Σ_apart (x_i − x_j)²        between 0 and 1
    D = 1 + ρ Σ_{i≠j} w_i w_j / Σ w_i²        over the pairs of one document

ρ, the intraclass correlation, is taken over all subjects at once, as one subject has few such pairs; numerator and
denominator are unbiased in the smallest cells, since no mean is estimated. D, the design effect, divides the effective
sample size of a rate that weighs windows by w (Kish 1965, Survey sampling, 5.4 and 11.7; with equal weights and
clusters of m, 1 + (m − 1) ρ).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

_LEAST_PAIRS = 30


def intraclass_correlation(
    x: Float[ndarray, "n"], subject: Int[ndarray, "n"], cell: Int[ndarray, "n"], cluster: Int[ndarray, "n"]
) -> float:
    """ρ; cluster −1 stands for a window that is alone. NaN with fewer than 30 pairs of one document in cells that hold
    others, too: of so few, no more than chance would be seen."""
    of_cell = _joint(subject, cell)
    n_pairs, unlike = _pairs_within(x, of_cell)
    rows = np.flatnonzero(cluster >= 0)
    _, first, group = np.unique(_joint(of_cell[rows], cluster[rows]), return_index=True, return_inverse=True)
    within = of_cell[rows[first]]
    n_same, same = (np.bincount(within, of, minlength=len(n_pairs)) for of in _pairs_within(x[rows], group))
    used = np.flatnonzero((n_same > 0) & (n_pairs > n_same))
    if n_same[used].sum() < _LEAST_PAIRS:
        return float("nan")
    apart = (n_same * (unlike - same))[used] / (n_pairs - n_same)[used]
    return float(np.clip(1 - same[used].sum() / apart.sum(), 0, 1)) if apart.sum() > 0 else float("nan")


def design_effect(
    weight: Float[ndarray, "n"], subject: Int[ndarray, "n"], cluster: Int[ndarray, "n"], n_subjects: int, rho: float
) -> Float[ndarray, "R"]:
    """D of every subject, whose windows have these weights; 1 where none lie together, or ρ is missing."""
    rows = np.flatnonzero(cluster >= 0)
    groups, of = np.unique(_joint(subject[rows], cluster[rows]), return_inverse=True)
    w = weight[rows]
    shared = np.bincount(subject[rows], w * (np.bincount(of, w, minlength=len(groups))[of] - w), minlength=n_subjects)
    squares = np.bincount(subject, weight**2, minlength=n_subjects)
    return np.asarray(1 + np.nan_to_num(rho) * shared / np.where(squares > 0, squares, 1))


def _pairs_within(x: Float[ndarray, "n"], group: Int[ndarray, "n"]) -> tuple[Float[ndarray, "G"], Float[ndarray, "G"]]:
    """How many pairs each group has, and Σ (x_i − x_j)² over them."""
    n = np.bincount(group).astype(np.float64)
    return n * (n - 1) / 2, n * np.bincount(group, x**2) - np.bincount(group, x) ** 2


def _joint(first: Int[ndarray, "n"], second: Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """One number for each pair of numbers."""
    return np.asarray(first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second)
