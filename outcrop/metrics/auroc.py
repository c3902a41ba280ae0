"""Area under the ROC curve, weighted, ties counted half, with a bootstrap within strata.

    AUROC = Σ_i Σ_j u_i v_j ([p_i > p_j] + ½ [p_i = p_j])

over activating windows i and non-activating windows j, with u_i = w_q / n_q and v_j = v_s / n_s.

Where the sample separates perfectly every resample does too, so the bootstrap says nothing of
the uncertainty: the ends of the interval are then missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outcrop.metrics.rates import Estimate, Sampling

_MISSING = Estimate(np.array(np.nan), np.array(np.nan), np.array(np.nan))


def auroc(
    positive: Sequence[Float[ndarray, "_"]],
    negative: Sequence[Float[ndarray, "_"]],
    positive_weights: Sequence[float] | ndarray,
    negative_weights: Sequence[float] | ndarray,
    sampling: Sampling,
) -> Estimate:
    """Of the probabilities in each stratum; missing if a stratum with weight has none."""
    activating, non_activating = _weighted(positive, positive_weights), _weighted(negative, negative_weights)
    if activating is None or non_activating is None:
        return _MISSING
    (up, u), (down, v) = activating, non_activating
    wins = _wins(up, down)
    value = np.clip(_spread(up, u) @ wins @ _spread(down, v), 0, 1)
    if np.all(wins == wins.flat[0]):  # all won, all lost or all tied: no resample can differ
        return Estimate(np.asarray(value), _MISSING.low, _MISSING.high)
    draws = np.clip(((_resample(up, u, sampling) @ wins) * _resample(down, v, sampling)).sum(-1), 0, 1)
    return sampling.interval(value, draws, draws)


def area(
    positive: Sequence[Float[ndarray, "_"]],
    negative: Sequence[Float[ndarray, "_"]],
    positive_weights: Sequence[float] | ndarray,
    negative_weights: Sequence[float] | ndarray,
) -> float:
    """The value alone; NaN if a stratum with weight has none."""
    activating, non_activating = _weighted(positive, positive_weights), _weighted(negative, negative_weights)
    if activating is None or non_activating is None:
        return float("nan")
    (up, u), (down, v) = activating, non_activating
    return float(np.clip(_spread(up, u) @ _wins(up, down) @ _spread(down, v), 0, 1))


def _wins(up: list[ndarray], down: list[ndarray]) -> Float[ndarray, "n m"]:
    """1 where the activating window scores more, ½ where both score alike."""
    high, low = np.concatenate(up)[:, None], np.concatenate(down)
    return (high > low) + 0.5 * (high == low)


def _weighted(
    strata: Sequence[ndarray], weights: Sequence[float] | ndarray
) -> tuple[list[ndarray], list[float]] | None:
    """The strata with weight, and their weights scaled to sum 1; None if one of them is empty."""
    used = [(stratum, float(w)) for stratum, w in zip(strata, weights, strict=True) if w > 0]
    if not used or any(stratum.size == 0 for stratum, _ in used):
        return None
    total = sum(w for _, w in used)
    return [stratum for stratum, _ in used], [w / total for _, w in used]


def _spread(strata: list[ndarray], weights: list[float]) -> Float[ndarray, "n"]:
    """The weight of each window: its stratum's, divided among the stratum's windows."""
    return np.concatenate([np.full(s.size, w / s.size) for s, w in zip(strata, weights, strict=True)])


def _resample(strata: list[ndarray], weights: list[float], sampling: Sampling) -> Float[ndarray, "draws n"]:
    """The same for windows redrawn with replacement within each stratum."""
    return np.concatenate(
        [sampling.redraw(s.size) * (w / s.size) for s, w in zip(strata, weights, strict=True)], axis=-1
    )
