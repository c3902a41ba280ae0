"""By how many bits the explanation from the low band is broader than that from the high band.

    D = log₂ π̂(E_low) − log₂ π̂(E_high)        π̂(E) = Σ_c W_c mean of p′ over the judged windows of cell c

p′ is the calibrated posterior of a window at the natural rate. Cells are the bands of the activating windows,
W = π/3, and the strata of the others, W = (1 − π) v_s; windows drawn at random from the grid are one cell of weight 1.
Both explanations are judged on the same windows.

The interval of a π̂ is that of a weighted rate (`rates`), of y = p′ / M in [0, 1], M the largest p′ of the latent. Each
cell is taken to have half a window at 0 and half a window at 1 beside its n:

    m̃ = (Σy + ½)/(n + 1)    s̃² = (Σy² + ½)/(n + 1) − m̃²    V = Σ W² s̃²/n    n_eff = Σ W m̃ (1 − Σ W m̃) / V
    π̂ / M ~ Beta(ŷ n_eff + ½, (1 − ŷ) n_eff + ½)        ŷ = π̂ / M

For p′ of 0 and 1 it is the very same. Few windows decide π̂ and a small sample holds none of them: the half window
allows for that, while a delta interval of the paired differences covers little more than half of the time, at worst
(`tests/proofs/quantiles.py`).

The interval of D follows from the distances to the ends of both logarithms and from the correlation of the two
estimates, r = Σ W² cov/n / √(V_low V_high) (MOVER with dependence: Zou and Donner 2008, as in `forms`).

Of latents nearly all of which are withheld, the few that are shown had luck with E_high: they lean to 0 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

from outcrop.metrics.rates import Estimate

WIDEST = 2.0  # bits


@dataclass(frozen=True)
class PairedPosteriors:
    """p′ of the windows that were judged under both explanations, all latents end to end."""

    low: Float[ndarray, "n"]  # under E_low
    high: Float[ndarray, "n"]  # under E_high
    row: Int[ndarray, "n"]  # of the latent, among N
    cell: Int[ndarray, "n"]  # of the window, among C


def cell_weights(context_rate: Float[ndarray, "N"], shares: Float[ndarray, "N S"]) -> Float[ndarray, "N cells"]:
    """W_c of the three bands and then of the S strata of the other windows."""
    rate = context_rate[:, None]
    return np.hstack([np.repeat(rate / 3, 3, axis=1), (1 - rate) * shares])


def drop_off(windows: PairedPosteriors, weights: Float[ndarray, "N C"], confidence: float) -> Estimate:
    """D in bits [N]. The value is withheld (NaN) unless the interval is narrower than 2 bits; its ends are kept.

    All three are missing where a cell with weight has no window, or where all p′ of a latent are alike: nothing then
    tells how much an unseen window could add.
    """
    largest, known = _range(windows, len(weights))
    sums = _Sums(windows.row * weights.shape[1] + windows.cell, weights)
    known = known & sums.complete
    y_low, y_high = (p / largest[windows.row] for p in (windows.low, windows.high))
    low, high = _breadth(y_low, sums, confidence), _breadth(y_high, sums, confidence)
    r = sums.covariance(y_low, y_high) / np.sqrt(low.variance * high.variance)
    value = low.bits.value - high.bits.value
    below = _reach(low.bits.value - low.bits.low, high.bits.high - high.bits.value, r)
    above = _reach(low.bits.high - low.bits.value, high.bits.value - high.bits.low, r)
    shown = known & (below + above < WIDEST)
    ends = (np.where(known, end, np.nan) for end in (value - below, value + above))
    return Estimate(np.where(shown, value, np.nan), *ends)


@dataclass(frozen=True)
class _Sums:
    """Over the windows of each cell, and weighted over the cells of each latent."""

    index: Int[ndarray, "n"]  # row · C + cell
    weights: Float[ndarray, "N C"]

    @cached_property
    def n(self) -> Float[ndarray, "N C"]:
        return np.bincount(self.index, minlength=self.weights.size).reshape(self.weights.shape).astype(np.float64)

    @property
    def complete(self) -> ndarray:
        return np.asarray(((self.n > 0) | (self.weights == 0)).all(axis=1))

    def of(self, x: Float[ndarray, "n"]) -> Float[ndarray, "N C"]:
        sums = np.bincount(self.index, x, minlength=self.weights.size)
        return sums.reshape(self.weights.shape).astype(np.float64)  # of no windows numpy counts whole

    def mean(self, x: Float[ndarray, "n"]) -> Float[ndarray, "N C"]:
        return self.of(x) / np.maximum(self.n, 1)

    def covariance(self, x: Float[ndarray, "n"], y: Float[ndarray, "n"]) -> Float[ndarray, "N"]:
        """Of the weighted means of x and y."""
        within = self.mean(x * y) - self.mean(x) * self.mean(y)
        return np.asarray((self.weights**2 * within / np.maximum(self.n, 1)).sum(axis=1))


@dataclass(frozen=True)
class _Breadth:
    """log₂ ŷ [N] and the variance of ŷ."""

    bits: Estimate
    variance: Float[ndarray, "N"]


def _breadth(y: Float[ndarray, "n"], sums: _Sums, confidence: float) -> _Breadth:
    n, w = sums.n, sums.weights
    smooth = (sums.of(y) + 0.5) / (n + 1)
    spread = (sums.of(y**2) + 0.5) / (n + 1) - smooth**2
    variance, center = (w**2 * spread / np.maximum(n, 1)).sum(axis=1), (w * smooth).sum(axis=1)
    value = np.clip((w * sums.mean(y)).sum(axis=1), 0, 1)
    n_eff = center * (1 - center) / variance
    tail, a, b = (1 - confidence) / 2, value * n_eff + 0.5, (1 - value) * n_eff + 0.5
    low, high = np.minimum(stats.beta.ppf(tail, a, b), value), np.maximum(stats.beta.ppf(1 - tail, a, b), value)
    return _Breadth(Estimate(*(_bits(end) for end in (value, low, high))), variance)


def _range(windows: PairedPosteriors, n_latents: int) -> tuple[Float[ndarray, "N"], ndarray]:
    """M, and whether any p′ of the latent differs from it."""
    largest, least = np.zeros(n_latents), np.ones(n_latents)
    for p in (windows.low, windows.high):
        np.maximum.at(largest, windows.row, p)
        np.minimum.at(least, windows.row, p)
    return np.where(largest > 0, largest, 1), least < largest


def _bits(rate: ndarray) -> ndarray:
    return np.log2(np.where(rate > 0, rate, np.nan))


def _reach(first: ndarray, second: ndarray, r: ndarray) -> ndarray:
    """How far a difference of two estimates with correlation r reaches to one side."""
    return np.sqrt(np.maximum(first**2 + second**2 - 2 * r * first * second, 0))
