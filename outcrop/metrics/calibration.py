"""What a judge's probability is worth at the natural rate: calibration over latents, and how good it is.

    ℓ = a + b logit(p), b ≥ 0      fitted with both classes of equal total weight: log P(p | fires) / P(p | does not)
    p′ = σ(ℓ + logit π)            the posterior at context rate π; p′ > ½ is the Bayes decision

Platt (1999), Probabilistic outputs for support vector machines. ℓ of a latent comes from the judgements of
other latents (5-fold cross-fitting over latents), so that no latent is mended by its own answers.

- Targets are softened as Platt does it, by 1 / (n + 2), with n the effective sample size (Σw)² / Σw² of the smaller
  class: classes that separate perfectly give |ℓ| of about log(n + 1) rather than infinity.
- A judge worse than chance says nothing: b stops at 0, where ℓ = 0 and p′ = π. Turning its answers round would
  credit an explanation for what it does not say, and chance for what controls say.
- Isotonic regression (Zadrozny and Elkan 2002) instead where the fit holds at least 1,000 judgements *and* predicts the
  other latents better: its log loss, cross-fitted within the fitting folds, is lower. Each of its blocks is smoothed
  by half a judgement of either class. By the first condition alone it would lose 5% of log loss at 1,000 judgements
  where Platt's line holds; by both it gains where answers are rounded or lapse, and loses next to nothing elsewhere.

Fits see the judgements through a table of 2¹³ cells of logit(p), each at its mean: one pass over the judgements,
whatever the number of fits.

A judge told the base rate answers with a posterior already: fit its answers with `natural_weights`, and give
`posterior` the mean of π over latents instead of each latent's own.

Arrays are flat over the n judgements of one judge, scorer and arm; failed judgements are left out by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import optimize
from scipy.special import expit, logit

N_FOLDS = 5
N_BINS = 15
ISOTONIC_JUDGEMENTS = 1_000
CLIP = 1e-6  # probabilities are held this far from 0 and 1, in logits and logarithms
_N_CELLS = 2**13  # of 0.0034 nats each


@dataclass(frozen=True)
class Calibration:
    """Of n judgements in F folds of latents."""

    log_likelihood_ratio: Float[ndarray, "n"]
    """ℓ in nats, from the other folds; NaN where these hold one class only, or no latent."""
    fold: Int[ndarray, "n"]
    """The fold of the judgement's latent."""
    slope: Float[ndarray, "F"]
    """Platt's b of the fit for each fold: 1 for a calibrated judge, below 1 for an over-confident one, 0 for one that
    is no better than chance."""
    isotonic: Bool[ndarray, "F"]
    """Whether ℓ comes from isotonic regression instead."""


@dataclass(frozen=True)
class Reliability:
    """Bins of equal natural weight, by rising probability. B is below the number asked for where equal
    probabilities, which are never parted, fill several bins."""

    predicted: Float[ndarray, "B"]
    """Mean probability."""
    observed: Float[ndarray, "B"]
    """Weighted share of activating windows."""
    weight: Float[ndarray, "B"]
    """Share of all weight; Σ = 1."""
    n: Int[ndarray, "B"]
    """Judgements."""

    @property
    def error(self) -> float:
        """Expected calibration error, Σ weight |predicted − observed|; NaN without a bin.

        At low π the high probabilities share the last bin: read it beside Brier score and log loss.
        """
        return float(self.weight @ np.abs(self.predicted - self.observed)) if len(self.n) else float("nan")


# -- calibration ---------------------------------------------------------------------------------------------


def calibrate(
    probability: Float[ndarray, "n"],
    activating: Bool[ndarray, "n"],
    weight: Float[ndarray, "n"],
    latent: Int[ndarray, "n"],
    generator: np.random.Generator,
) -> Calibration:
    """Log-likelihood ratios by cross-fitting over latents, which are dealt to the folds by the generator.

    weight: w_q / n_q of activating and v_s / n_s of non-activating windows. latent: numbers from 0, not too sparse.
    """
    fold = _folds(latent, generator)
    cell = _cells(probability)
    table = _tabulate(cell, logit(_clip(probability)), activating, weight, fold)
    fits = [_fit(table, k) for k in range(table.n_folds)]
    curves, slope, isotonic = (np.array(part) for part in zip(*fits, strict=True))
    return Calibration(curves[fold, cell], fold, slope, isotonic)


def posterior(
    log_likelihood_ratio: Float[ndarray, "n"], prevalence: float | Float[ndarray, "n"]
) -> Float[ndarray, "n"]:
    """p′ = σ(ℓ + logit π) of each judgement's π, or of one for all."""
    return np.asarray(expit(log_likelihood_ratio + logit(prevalence)))


def _clip(probability: ndarray) -> ndarray:
    return np.clip(probability, CLIP, 1 - CLIP)


def _folds(latent: Int[ndarray, "n"], generator: np.random.Generator) -> Int[ndarray, "n"]:
    """Latents dealt at random to folds of equal size, ± 1; fewer folds where there are fewer latents."""
    present = np.flatnonzero(np.bincount(latent))
    fold_of = np.zeros(latent.max(initial=0) + 1, dtype=np.int8)
    fold_of[generator.permutation(present)] = np.arange(len(present)) % N_FOLDS
    return fold_of[latent]


def _cells(probability: ndarray) -> Int[ndarray, "n"]:
    bound = logit(1 - CLIP)
    position = (logit(_clip(probability)) + bound) / (2 * bound)
    return np.clip((position * _N_CELLS).astype(np.int32), 0, _N_CELLS - 1)


@dataclass(frozen=True)
class _Table:
    """What the fits see of the judgements, by fold F, class (0 non-activating, 1 activating) and cell C."""

    mass: Float[ndarray, "F 2 C"]
    squares: Float[ndarray, "F 2"]
    n: Int[ndarray, "F"]
    position: Float[ndarray, "C"]

    @property
    def n_folds(self) -> int:
        return len(self.n)

    def without(self, *folds: int) -> _Table:
        """The other folds as one."""
        kept = np.delete(np.arange(self.n_folds), folds)
        mass, squares, n = (part[kept].sum(0, keepdims=True) for part in (self.mass, self.squares, self.n))
        return _Table(mass, squares, n, self.position)

    def densities(self) -> Float[ndarray, "2 C"]:
        """Of one fold: each class scaled to Σ = 1; NaN for a class without weight."""
        total = self.mass[0].sum(-1, keepdims=True)
        return np.asarray(self.mass[0] / np.where(total > 0, total, np.nan))

    def effective_sizes(self) -> Float[ndarray, "2"]:
        """(Σw)² / Σw² of either class of one fold."""
        return np.asarray(self.mass[0].sum(-1) ** 2 / np.where(self.squares[0] > 0, self.squares[0], np.nan))


def _tabulate(cell: ndarray, position: ndarray, activating: ndarray, weight: ndarray, fold: ndarray) -> _Table:
    n_folds = int(fold.max(initial=0)) + 1
    group = 2 * fold.astype(np.int32) + activating
    squares = np.bincount(group, weight**2, 2 * n_folds).reshape(n_folds, 2)
    mass = np.bincount(group * _N_CELLS + cell, weight, 2 * n_folds * _N_CELLS).reshape(n_folds, 2, _N_CELLS)
    total, moment = mass.sum((0, 1)), np.bincount(cell, weight * position, _N_CELLS)
    return _Table(
        mass.astype(np.float64),  # of no judgements numpy counts whole
        squares.astype(np.float64),
        np.bincount(fold, minlength=n_folds),
        np.where(total > 0, moment / np.where(total > 0, total, 1), 0.0),
    )


def _fit(table: _Table, held_out: int) -> tuple[Float[ndarray, "C"], float, bool]:
    """ℓ of every cell for one fold, from the others; Platt's slope; whether ℓ is isotonic."""
    fitting = table.without(held_out)
    if np.isnan(fitting.densities()).any():
        return np.full(_N_CELLS, np.nan), float("nan"), False
    line, slope = _platt(fitting)
    isotonic = bool(fitting.n[0] >= ISOTONIC_JUDGEMENTS) and _isotonic_predicts_better(table, held_out)
    return (_isotonic(fitting) if isotonic else line), slope, isotonic


def _platt(fitting: _Table) -> tuple[Float[ndarray, "C"], float]:
    """The line and its slope: a convex problem in two parameters."""
    density, x = fitting.densities(), fitting.position
    softening = 1 / (fitting.effective_sizes().min() + 2)
    down, up = ((1 - softening) * density + softening * density[::-1]) / 2

    def loss(parameters: ndarray) -> tuple[float, ndarray]:
        z = parameters[0] + parameters[1] * x
        slope = (up + down) * expit(z) - up
        return (up + down) @ np.logaddexp(0, z) - up @ z, np.array([slope.sum(), slope @ x])

    bounds, precise = [(None, None), (0, None)], {"ftol": 1e-15, "gtol": 1e-9}
    a, b = optimize.minimize(loss, (0, 0), jac=True, method="L-BFGS-B", bounds=bounds, options=precise).x
    return a + b * x, float(b)


def _isotonic(fitting: _Table) -> Float[ndarray, "C"]:
    """Steps, and straight lines across cells in which nothing was seen."""
    seen = fitting.mass[0].sum(0) > 0
    density, sizes = fitting.densities()[:, seen], fitting.effective_sizes()[:, None]
    weight = density.sum(0)
    edges = optimize.isotonic_regression(density[1] / weight, weights=weight).blocks
    smooth = np.log((np.add.reduceat(density, edges[:-1], axis=1) * sizes + 0.5) / (sizes + 1))
    ratio = optimize.isotonic_regression(smooth[1] - smooth[0], weights=np.add.reduceat(weight, edges[:-1])).x
    return np.interp(fitting.position, fitting.position[seen], np.repeat(ratio, np.diff(edges)))


def _isotonic_predicts_better(table: _Table, held_out: int) -> bool:
    """By log loss on each of the fitting folds in turn, from the rest of them."""
    difference = 0.0
    for k in set(range(table.n_folds)) - {held_out}:
        rest, target = table.without(held_out, k), table.mass[k]
        if np.isnan(rest.densities()).any():
            return False
        difference += _class_balanced_loss(_isotonic(rest), target) - _class_balanced_loss(_platt(rest)[0], target)
    return difference < 0


def _class_balanced_loss(ratio: Float[ndarray, "C"], mass: Float[ndarray, "2 C"]) -> float:
    totals = np.maximum(mass.sum(-1), np.finfo(float).tiny)
    return float(mass[0] @ np.logaddexp(0, ratio) / totals[0] + mass[1] @ np.logaddexp(0, -ratio) / totals[1])


# -- quality at the natural rate -----------------------------------------------------------------------------


def natural_weights(
    weight: Float[ndarray, "n"],
    activating: Bool[ndarray, "n"],
    latent: Int[ndarray, "n"],
    prevalence: Float[ndarray, "n"],
) -> Float[ndarray, "n"]:
    """π w_q / n_q of activating and (1 − π) v_s / n_s of other windows, each class scaled so that Σ = 1 in a latent.

    0 for a latent that was judged in one class only: what it would be at the natural rate was not measured.
    """
    group = 2 * latent + activating
    totals = np.bincount(group, weight, 2 * (latent.max(initial=0) + 1))
    complete = totals.reshape(-1, 2).min(-1)[latent] > 0
    share = np.where(activating, prevalence, 1 - prevalence)
    return np.asarray(weight / np.where(totals > 0, totals, 1)[group] * share * complete)


def squared_error(probability: Float[ndarray, "n"], activating: Bool[ndarray, "n"]) -> Float[ndarray, "n"]:
    """(p − y)² of each judgement."""
    return np.asarray((probability - activating) ** 2)


def surprise(probability: Float[ndarray, "n"], activating: Bool[ndarray, "n"]) -> Float[ndarray, "n"]:
    """−log P(y) of each judgement in nats, with p held between 10⁻⁶ and 1 − 10⁻⁶."""
    held = _clip(probability)
    return np.asarray(-np.log(np.where(activating, held, 1 - held)))


def brier(probability: Float[ndarray, "n"], activating: Bool[ndarray, "n"], weight: Float[ndarray, "n"]) -> float:
    """Σ w (p − y)² / Σ w; NaN without weight."""
    return _mean(squared_error(probability, activating), weight)


def log_loss(probability: Float[ndarray, "n"], activating: Bool[ndarray, "n"], weight: Float[ndarray, "n"]) -> float:
    """Σ w surprise / Σ w in nats; NaN without weight."""
    return _mean(surprise(probability, activating), weight)


def reliability(
    probability: Float[ndarray, "n"],
    activating: Bool[ndarray, "n"],
    weight: Float[ndarray, "n"],
    n_bins: int = N_BINS,
) -> Reliability:
    """Bins end at the weighted quantiles of p; one that gets no weight is left out."""
    order = np.argsort(probability)
    reached = np.cumsum(weight[order])
    ends = np.searchsorted(reached, weight.sum() * np.arange(1, n_bins) / n_bins)
    place = np.searchsorted(np.unique(probability[order][ends]) if len(order) else order, probability)
    mass, n = np.bincount(place, weight), np.bincount(place)
    kept = mass > 0
    predicted, observed = (np.bincount(place, weight * part)[kept] / mass[kept] for part in (probability, activating))
    return Reliability(predicted, observed, mass[kept] / mass.sum(), n[kept])


def _mean(values: ndarray, weight: ndarray) -> float:
    total = float(weight.sum())
    return float(weight @ values) / total if total > 0 else float("nan")
