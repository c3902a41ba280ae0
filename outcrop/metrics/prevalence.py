"""What TPR and FPR mean at the natural context rate π.

    true accuracy    π TPR + (1 − π)(1 − FPR)
    accuracy skill   (true accuracy − max(π, 1−π)) / min(π, 1−π); unbounded below
    predicted rate   π̂ = π TPR + (1 − π) FPR
    true precision   π TPR / π̂
    true F1          2 π TPR / (π̂ + π)
    breadth          π̂ / π

All arrays have the shape [...] of the latents; draws stand in front of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import ArrayLike

from outcrop.metrics.rates import Estimate, Rate, Sampling, propagate


def true_accuracy(tpr: ndarray, fpr: ndarray, prevalence: ndarray) -> ndarray:
    return np.asarray(prevalence * tpr + (1 - prevalence) * (1 - fpr))


def accuracy_skill(tpr: ndarray, fpr: ndarray, prevalence: ndarray) -> ndarray:
    """The quotient of the definition, reduced for each case so that a tiny π loses no digits."""
    safe = np.where((prevalence > 0) & (prevalence < 1), prevalence, np.nan)
    rare = tpr - (1 - safe) / safe * fpr
    common = 1 - fpr - safe / (1 - safe) * (1 - tpr)
    return np.asarray(np.where(safe <= 0.5, rare, common))


def predicted_rate(tpr: ndarray, fpr: ndarray, prevalence: ndarray) -> ndarray:
    return np.asarray(prevalence * tpr + (1 - prevalence) * fpr)


def precision(tpr: ndarray, fpr: ndarray, prevalence: ndarray) -> ndarray:
    """NaN where nothing is predicted."""
    return _ratio(prevalence * tpr, predicted_rate(tpr, fpr, prevalence))


def f1(tpr: ndarray, fpr: ndarray, prevalence: ndarray) -> ndarray:
    return _ratio(2 * prevalence * tpr, predicted_rate(tpr, fpr, prevalence) + prevalence)


def breadth(tpr: ndarray, fpr: ndarray, prevalence: ndarray) -> ndarray:
    return _ratio(predicted_rate(tpr, fpr, prevalence), prevalence)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> ndarray:
    positive = np.where(np.asarray(denominator) > 0, denominator, np.nan)
    return np.asarray(np.asarray(numerator) / positive)


_FORMULAS: dict[str, Callable[[ndarray, ndarray, ndarray], ndarray]] = {
    "true_accuracy": true_accuracy,
    "accuracy_skill": accuracy_skill,
    "precision": precision,
    "f1": f1,
    "predicted_rate": predicted_rate,
    "breadth": breadth,
}


def at_prevalence(tpr: Rate, fpr: Rate, prevalence: Float[ndarray, "..."], sampling: Sampling) -> dict[str, Estimate]:
    """Every formula above with its interval, by name."""

    def at(formula: Callable[[ndarray, ndarray, ndarray], ndarray]) -> Callable[..., ndarray]:
        return lambda hit, alarm: formula(hit, alarm, prevalence)

    return {name: propagate(at(formula), (tpr, fpr), sampling) for name, formula in _FORMULAS.items()}
