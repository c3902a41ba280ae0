"""Three explanations of a latent, each judged on each third of its activating windows by peak.

    M[i, j] = J_j(E_i) = TPR_ij − FPR_i      explanation from band i, activating windows of band j
    agreement = mean of M off the diagonal / mean of the diagonal
    low-activation polysemanticity = 1 − J_low(E_high) / J_high(E_high)
                                   = (TPR_high − TPR_low) / (TPR_high − FPR), all of E_high

Bands are 0 low, 1 middle, 2 high. The nine TPR and three FPR are taken for independent. Those of different
explanations share their windows; they tend to err on the same ones, so the interval of the agreement is wide rather
than narrow. The TPR of one explanation in two bands share none.

A quotient by a J that may be nothing says nothing: it is missing, with its ends, unless the lower end of that J
exceeds 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.metrics.accuracy import INFORMEDNESS
from outcrop.metrics.forms import Linear, Quotient, estimate
from outcrop.metrics.rates import Estimate, Rate, weighted_rate

LOW, MIDDLE, HIGH = range(3)

_NOTHING = 0.1  # a J may be nothing unless it is surely above
_WITHIN = (-1 / _NOTHING, 1 / _NOTHING)  # a J of at most 1 over one of more than that
_DIAGONAL = np.eye(3)

AGREEMENT = Quotient(
    Linear((*((1 - _DIAGONAL) / 6).ravel(), *(-1 / 3,) * 3)),
    Linear((*(_DIAGONAL / 3).ravel(), *(-1 / 3,) * 3)),
    _WITHIN,
)
"""Of TPR_00, TPR_01, …, TPR_22, FPR_0, FPR_1, FPR_2."""

LOW_POLYSEMANTICITY = Quotient(Linear((-1, 1, 0)), Linear((0, 1, -1)), _WITHIN)
"""Of TPR_low, TPR_high and FPR of the explanation from the high band."""


@dataclass(frozen=True)
class BandCounts:
    """Judged windows and those among them taken for a match, by explanation; v_s by stratum."""

    hits: Int[ndarray, "N 3 3"]  # explanation × band of the activating windows
    n_activating: Int[ndarray, "N 3 3"]
    alarms: Int[ndarray, "N 3 S"]  # explanation × stratum of the non-activating windows
    n_others: Int[ndarray, "N 3 S"]
    shares: Float[ndarray, "N S"]


@dataclass(frozen=True)
class Bands:
    """What the bands say of each other."""

    informedness: Estimate  # M [N, 3, 3]
    agreement: Estimate  # [N]; 1: every explanation holds in every band as in its own
    low_polysemanticity: Estimate  # [N]; 0: what holds in the high band holds in the low, 1: nothing of it

    @property
    def telling(self) -> Bool[ndarray, "N"]:
        """Whether E_low on the low band and E_high on the high band are surely more than nothing. To a judge that can
        make nothing of them both are as broad as everything, and of one breadth."""
        return np.asarray((self.informedness.low[:, (LOW, HIGH), (LOW, HIGH)] > _NOTHING).all(axis=1))


def across_bands(counts: BandCounts, confidence: float) -> Bands:
    tpr = weighted_rate(counts.hits[..., None], counts.n_activating[..., None], [1.0], confidence)
    fpr = weighted_rate(counts.alarms, counts.n_others, counts.shares[:, None], confidence)
    informedness = estimate(INFORMEDNESS, (tpr, fpr[:, :, None]))
    nine = [tpr[:, i, j] for i in range(3) for j in range(3)]
    three = [fpr[:, i] for i in range(3)]
    of_high = (nine[3 * HIGH + LOW], nine[3 * HIGH + HIGH], three[HIGH])
    return Bands(informedness, _surely(AGREEMENT, (*nine, *three)), _surely(LOW_POLYSEMANTICITY, of_high))


def _surely(quotient: Quotient, rates: tuple[Rate, ...]) -> Estimate:
    """The quotient where its bottom is surely something."""
    known = estimate(quotient.bottom, rates).low > _NOTHING
    found = estimate(quotient, rates)
    return Estimate(*(np.where(known, end, np.nan) for end in found.ends.values()))
