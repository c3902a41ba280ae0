"""The strata of the windows in which a latent does not fire, in order of precedence.

same_token   contains one of the latent's triggers; not for diffuse and for pure token latents
neighbour    one of its nearest latents fires there
semantic     among the nearest windows, by sentence embedding, of some windows in which it fires
random       all the rest

A stratum that is switched off or empty falls through to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray

from outcrop.latents.cache import LatentCache
from outcrop.latents.neighbours import Neighbours
from outcrop.latents.windows import Grid
from outcrop.types import Stratum


@dataclass(frozen=True)
class StratumRows:
    """The grid rows of one stratum; for each, what made it a member, and how far that is from the latent."""

    stratum: Stratum
    rows: Int64[ndarray, "rows"]  # ascending
    source: Int64[ndarray, "rows"] | None = None  # trigger token, neighbouring latent, or activating row
    distance: Float32[ndarray, "rows"] | None = None  # 1 − similarity

    def among(self, free: Bool[ndarray, "windows"]) -> StratumRows:
        """Those rows that no stratum has taken yet."""
        kept = free[self.rows]
        source, distance = (part if part is None else part[kept] for part in (self.source, self.distance))
        return StratumRows(self.stratum, self.rows[kept], source, distance)


def partition(fires: Bool[ndarray, "windows"], candidates: Sequence[StratumRows]) -> list[StratumRows]:
    """The windows in which the latent does not fire, each in the first of `candidates` that has it, or in `random`."""
    free = ~fires
    strata = []
    for candidate in candidates:
        stratum = candidate.among(free)
        free[stratum.rows] = False
        if len(stratum.rows):
            strata.append(stratum)
    return [*strata, StratumRows("random", np.flatnonzero(free))]


def same_token_rows(grid: Grid, triggers: Int64[ndarray, "triggers"]) -> StratumRows:
    """Rows with a trigger, each with the first one that it contains."""
    none = grid.positions.size
    first = np.full(grid.n_windows, none)  # where in each row a trigger stands first
    for token in triggers.tolist():
        places = grid.places_of(token)[::-1]  # of several in one row the first has the last word
        rows = places // grid.positions.shape[1]
        first[rows] = np.minimum(first[rows], places)
    rows = np.flatnonzero(first < none)
    return StratumRows("same_token", rows, grid.tokens.ravel()[first[rows]].astype(np.int64))


def neighbour_rows(cache: LatentCache, grid: Grid, neighbours: Neighbours, latent: int) -> StratumRows:
    """Rows in which a neighbour fires, each with the nearest one that does."""
    others, similarity = neighbours.of_latent(latent)
    none = len(others)
    nearest = np.full(grid.n_windows, none, dtype=np.min_scalar_type(none))  # small, since it is written all over
    for i in reversed(range(none)):  # the nearest has the last word
        nearest[grid.rows_of(cache.positions(int(others[i])))] = i
    rows = np.flatnonzero(nearest < none)
    return StratumRows("neighbour", rows, others[nearest[rows]], 1 - similarity[nearest[rows]])
