"""What TPR and FPR mean at the natural context rate π.

    true accuracy    π TPR + (1 − π)(1 − FPR)
    accuracy skill   (true accuracy − max(π, 1−π)) / min(π, 1−π); unbounded below
    predicted rate   π̂ = π TPR + (1 − π) FPR
    true precision   π TPR / π̂
    true F1          2 π TPR / (π̂ + π)
    breadth          π̂ / π

Each is a form of (TPR, FPR), made for context rates [...] of latents.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outcrop.metrics.forms import Linear, Quotient, estimate
from outcrop.metrics.rates import Estimate, Rate

Prevalence = Float[ndarray, "..."]


def true_accuracy(prevalence: Prevalence) -> Linear:
    return Linear((prevalence, prevalence - 1), 1 - prevalence)


def accuracy_skill(prevalence: Prevalence) -> Linear:
    """The quotient of the definition, reduced for each case so that a tiny π loses no digits."""
    odds = _odds(prevalence)
    rare = prevalence <= 0.5
    return Linear((np.where(rare, 1, odds), np.where(rare, -1 / odds, -1)), np.where(rare, 0, 1 - odds))


def predicted_rate(prevalence: Prevalence) -> Linear:
    return Linear((prevalence, 1 - prevalence))


def precision(prevalence: Prevalence) -> Quotient:
    """Missing where nothing is predicted."""
    return Quotient(Linear((prevalence, 0)), predicted_rate(prevalence))


def f1(prevalence: Prevalence) -> Quotient:
    return Quotient(Linear((2 * prevalence, 0)), Linear((prevalence, 1 - prevalence), prevalence))


def breadth(prevalence: Prevalence) -> Linear:
    return Linear((1, 1 / _odds(prevalence)))


def _odds(prevalence: Prevalence) -> Prevalence:
    """π / (1 − π); missing where a latent fires nowhere or everywhere."""
    inside = np.where((prevalence > 0) & (prevalence < 1), prevalence, np.nan)
    return np.asarray(inside / (1 - inside))


_FORMS: dict[str, Callable[[Prevalence], Linear | Quotient]] = {
    "true_accuracy": true_accuracy,
    "accuracy_skill": accuracy_skill,
    "precision": precision,
    "f1": f1,
    "predicted_rate": predicted_rate,
    "breadth": breadth,
}


def at_prevalence(tpr: Rate, fpr: Rate, prevalence: Prevalence) -> dict[str, Estimate]:
    """Every formula above with its interval, by name."""
    return {name: estimate(form(prevalence), (tpr, fpr)) for name, form in _FORMS.items()}
