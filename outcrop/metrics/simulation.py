"""Pearson correlation of true and simulated activations, from sums that windows add up to.

r = (n Σap − Σa Σp) / √((n Σaa − (Σa)²) (n Σpp − (Σp)²))
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

_ROUNDING = 1e-12  # of n Σaa; a variance below is none


def correlation(moments: Float64[ndarray, "windows 6"]) -> float:
    """Over all tokens of the windows, of each of which (n, Σa, Σp, Σaa, Σpp, Σap) is given; NaN where the true or
    the predicted activations are all alike, or there is no window."""
    n, a, p, aa, pp, ap = moments.sum(axis=0).tolist()
    variance_a, variance_p = n * aa - a * a, n * pp - p * p
    if variance_a <= _ROUNDING * n * aa or variance_p <= _ROUNDING * n * pp:
        return float("nan")
    return float(np.clip((n * ap - a * p) / np.sqrt(variance_a * variance_p), -1, 1))
