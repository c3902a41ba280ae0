"""Pearson correlation of true and simulated activations, from sums that windows add up to.

r = (n Σap − Σa Σp) / √((n Σaa − (Σa)²) (n Σpp − (Σp)²))
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

_ROUNDING = 1e-12  # of n Σaa; a variance below is none


def correlation(moments: Float64[ndarray, "... 6"]) -> Float64[ndarray, "..."]:
    """Of the sums (n, Σa, Σp, Σaa, Σpp, Σap) over all tokens of a latent's windows; missing where the true or the
    predicted activations are all alike, or there is no window."""
    n, a, p, aa, pp, ap = np.moveaxis(moments, -1, 0)
    variance_a, variance_p = n * aa - a * a, n * pp - p * p
    known = (variance_a > _ROUNDING * n * aa) & (variance_p > _ROUNDING * n * pp)
    product = np.where(known, variance_a * variance_p, np.nan)
    return np.asarray(np.clip((n * ap - a * p) / np.sqrt(product), -1, 1))
