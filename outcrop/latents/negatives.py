"""The strata of the windows in which a latent does not fire.

`same_token` holds those that contain one of the latent's trigger tokens: token types with
P(fire | t) ≥ 10 r, by falling share of the firings, at most 16. If they cover less than half
of the firings the latent is *diffuse*; if P(fire | t) ≥ 0.99 for all of them it is a *pure
token latent*; neither has the stratum. `random` holds all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from outcrop.latents.cache import Firings, LatentCache
from outcrop.latents.windows import Grid
from outcrop.types import Stratum

_LIFT, _MOST, _COVER, _PURE = 10, 16, 0.5, 0.99


@dataclass(frozen=True)
class StratumRows:
    """The grid rows of one stratum; for same_token, the trigger that each contains."""

    stratum: Stratum
    rows: Int64[ndarray, "rows"]
    source: Int64[ndarray, "rows"] | None = None


def trigger_tokens(
    firings: Firings, cache: LatentCache, occurrences: Int64[ndarray, "types"]
) -> Int64[ndarray, "triggers"]:
    """The triggers of a latent; none if it is diffuse or a pure token latent."""
    fired = np.bincount(cache.corpus.tokens[firings.position], minlength=len(occurrences))
    probability: Float64[ndarray, "types"] = fired / np.maximum(occurrences, 1)
    rate = len(firings.position) / occurrences.sum()
    candidates = np.flatnonzero((fired > 0) & (probability >= _LIFT * rate))
    triggers = candidates[np.argsort(-fired[candidates], kind="stable")][:_MOST]
    diffuse = fired[triggers].sum() < _COVER * fired.sum()
    pure = bool((probability[triggers] >= _PURE).all())
    return np.empty(0, np.int64) if diffuse or pure else triggers


def strata(grid: Grid, fires: Bool[ndarray, "windows"], triggers: Int64[ndarray, "triggers"]) -> list[StratumRows]:
    """The partition of the windows in which the latent does not fire, in order of precedence."""
    rows = np.flatnonzero(~fires)
    if len(triggers) == 0:
        return [StratumRows("random", rows)]
    contains = np.isin(grid.tokens[rows], triggers)
    same = contains.any(axis=1)
    first_trigger = grid.tokens[rows][np.arange(len(rows)), contains.argmax(axis=1)]
    return [
        StratumRows("same_token", rows[same], first_trigger[same].astype(np.int64)),
        StratumRows("random", rows[~same]),
    ]
