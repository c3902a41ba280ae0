"""Formulas of independent rates, and their intervals in closed form.

A *linear form* c₀ + Σ c_i R_i of rates with estimates R̂_i in intervals [l_i, u_i] (MOVER, the method of variance
estimates recovery: Zou and Donner 2008, Construction of confidence limits about effect measures, Statistics in
Medicine 27, 1693–1702):

    low  = c₀ + Σ c_i R̂_i − √ Σ d_i²        d_i how far c_i R_i reaches below c_i R̂_i
    high = c₀ + Σ c_i R̂_i + √ Σ e_i²        e_i how far above

Unlike a symmetric interval it keeps that a rate without hits can only be larger.

A *quotient* N / D of two linear forms, D > 0, has for its ends the c at which an end of N − c D is 0 (Donner and Zou
2012, Closed-form confidence intervals for functions of the normal mean and standard deviation, Statistical Methods
in Medical Research 21, 347–359; after Fieller). Both may hold the same rates.

Of a rate with a gap (`rates`) the interval is that of its measured part; what the gap could hold is added whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outcrop.metrics.rates import Estimate, Rate

Number = int | float | ndarray

_HALVINGS = 50  # of the range in which an end is looked for


@dataclass(frozen=True)
class Linear:
    """c₀ + Σ c_i R_i; coefficients are numbers, or arrays [...] like the rates."""

    coefficients: tuple[Number, ...]
    constant: Number = 0.0

    def __call__(self, *rates: Number) -> Float[ndarray, "..."]:
        terms = (np.asarray(c) * np.asarray(rate) for c, rate in zip(self.coefficients, rates, strict=True))
        return np.asarray(sum(terms, start=np.asarray(self.constant, dtype=np.float64)))

    def minus(self, factor: Number, other: Linear) -> Linear:
        """This form less `factor` times another of the same rates."""
        pairs = zip(self.coefficients, other.coefficients, strict=True)
        coefficients = tuple(np.asarray(mine) - factor * np.asarray(theirs) for mine, theirs in pairs)
        return Linear(coefficients, np.asarray(self.constant) - factor * np.asarray(other.constant))


@dataclass(frozen=True)
class Quotient:
    """top / bottom, of the same rates; missing where bottom is not positive."""

    top: Linear
    bottom: Linear
    within: tuple[float, float] = (0.0, 1.0)  # its range, or as far as its ends are looked for

    def __call__(self, *rates: Number) -> Float[ndarray, "..."]:
        below = self.bottom(*rates)
        return np.asarray(self.top(*rates) / np.where(below > 0, below, np.nan))


def estimate(form: Linear | Quotient, rates: Sequence[Rate]) -> Estimate:
    """A form of independent rates [...]; missing where a rate is, with bounds where these have some."""
    value = form(*(rate.value for rate in rates))
    match form:
        case Linear():
            return Estimate(value, *_ends(form, rates))
        case Quotient():
            low, high = (_zero(form, end, rates, value.shape) for end in (0, 1))
            return Estimate(value, np.asarray(np.fmin(low, value)), np.asarray(np.fmax(high, value)))


def _ends(form: Linear, rates: Sequence[Rate]) -> tuple[Float[ndarray, "..."], Float[ndarray, "..."]]:
    center = np.asarray(form.constant, dtype=np.float64)
    below = above = least = most = np.zeros(())
    for c, rate in zip(map(np.asarray, form.coefficients), rates, strict=True):
        scale, measured = c * (1 - rate.gap), rate.measured
        center = center + scale * measured.value
        reach = (scale * (measured.low - measured.value), scale * (measured.high - measured.value))
        below, above = below + np.minimum(*reach) ** 2, above + np.maximum(*reach) ** 2
        least, most = least + np.minimum(c, 0) * rate.gap, most + np.maximum(c, 0) * rate.gap
    return np.asarray(center - np.sqrt(below) + least), np.asarray(center + np.sqrt(above) + most)


def _zero(form: Quotient, end: int, rates: Sequence[Rate], shape: tuple[int, ...]) -> Float[ndarray, "..."]:
    """The c at which this end of top − c bottom falls to 0; missing where nothing is known of the bottom."""
    low, high = (np.full(shape, limit) for limit in form.within)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        positive = _ends(form.top.minus(middle, form.bottom), rates)[end] > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
    unknown = np.isnan(_ends(form.bottom, rates)[0])
    return np.where(unknown, np.nan, (low, high)[end])
