"""What a latent does where it is barely active: one label each, the first that applies.

    undecided                       a J, the low-activation polysemanticity P or the mass of the low band is missing
    clean                           P ≤ 0.5 surely and not surely > 0.3: what holds in the high band holds in the low
    noise                           P > 0.3 surely, and E_low is at chance in the low band
    broadening                      P > 0.3 surely, and E_low reaches J ≥ 0.4 in the low band and in the high one
    polysemantic, little mass       as the next, but the low band carries < 10% of the activation mass
    polysemantic at low activation  P > 0.3 surely, and E_low reaches J ≥ 0.4 in the low band, not in the high one
    undecided                       all the rest

"Surely" is said of an end of the interval. E_low *reaches* by the value of its J; it is *at chance* where that is
below 0.4 and the interval holds 0. (Ends in the place of values would miss half of the polysemantic latents at 13
windows per band, to spare the others a false ping in a thousand: `tests/proofs/quantiles.py`.)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outcrop.metrics.quantiles import HIGH, LOW, Bands

CLEAN, NOISE, BROADENING = "clean", "noise", "broadening"
LITTLE_MASS, POLYSEMANTIC = "polysemantic, little mass", "polysemantic at low activation"
UNDECIDED = "undecided"
LABELS = (CLEAN, NOISE, BROADENING, LITTLE_MASS, POLYSEMANTIC, UNDECIDED)

_LOST = 0.3  # of the score in the high band, at least, where a latent is not clean
_KEPT = 0.5  # of it, at least, where a latent is clean
_REACHED = 0.4
_MASS = 0.1


def labels(bands: Bands, mass: Float[ndarray, "N 3"]) -> ndarray:
    """One of LABELS per latent [N]; `mass` is each band's share of Σ activation over the activating windows."""
    lost, j = bands.low_polysemanticity, bands.informedness
    below, above = j.value[:, LOW, LOW], j.value[:, LOW, HIGH]
    missing = np.isnan(lost.value) | np.isnan(below) | np.isnan(above) | np.isnan(mass[:, LOW])
    falls, reaches = lost.low > _LOST, below >= _REACHED
    conditions = {
        UNDECIDED: missing,
        CLEAN: ~falls & (lost.high <= 1 - _KEPT),
        NOISE: falls & ~reaches & (j.low[:, LOW, LOW] <= 0),
        BROADENING: falls & reaches & (above >= _REACHED),
        LITTLE_MASS: falls & reaches & (mass[:, LOW] < _MASS),
        POLYSEMANTIC: falls & reaches,
    }
    return np.select(list(conditions.values()), list(conditions), UNDECIDED)
