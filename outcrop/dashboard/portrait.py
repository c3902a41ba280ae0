"""What the cache and the weights say of one latent, from the table that `outcrop stats` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from outcrop.latents.counts import N_BINS, N_PLACES, bin_floor
from outcrop.report.figures import histogram
from outcrop.report.text import count, number, visible_token
from outcrop.types import CoderKey, LatentId

_SIMILARITY = "_similarity"
_BLOCK = 512  # latents that are read at once


@dataclass(frozen=True)
class Portrait:
    """Tokens are visible already, not yet escaped."""

    triggers: list[tuple[str, float, int, float]]  # token, P(fire | token), how often it occurs, share of the firings
    triggers_cover: float | None
    activations: Markup | None  # None where it never fired
    positions: Markup | None
    raises: list[tuple[str, float]]  # token, logit
    lowers: list[tuple[str, float]]
    neighbours: dict[str, list[tuple[int, float]]]  # measure → latent, similarity


def statistics_of(statistics: Path, coder: CoderKey, latents: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The rows of some latents of a coder, by latent; none as long as there is no such file."""
    if not statistics.exists():
        return {}
    written = statistics.stat().st_mtime_ns
    blocks = (_block(statistics, written, str(coder), latent // _BLOCK) for latent in latents)
    rows = (block.slice(latent % _BLOCK, 1).to_pylist() for latent, block in zip(latents, blocks, strict=True))
    return {row["latent"]: row for found in rows for row in found}


@lru_cache(maxsize=4)
def _block(statistics: Path, written: int, coder: str, block: int) -> pa.Table:
    """Of consecutive latents of a coder, as the file was `written`: who looks at one tends to look at the next."""
    first = block * _BLOCK
    chosen = [("coder", "=", coder), ("latent", ">=", first), ("latent", "<", first + _BLOCK)]
    return pq.read_table(statistics, filters=chosen)


def portrait_of(statistics: Path, latent: LatentId) -> Portrait | None:
    """None as long as there is no such file."""
    row = statistics_of(statistics, latent.coder, [latent.index]).get(latent.index)
    return None if row is None else portrait(row)


def portrait(row: dict[str, Any]) -> Portrait:
    """Of one row of the file."""
    fired = row["n_fired"] > 0
    measures = [name.removesuffix(_SIMILARITY) for name in row if name.endswith(_SIMILARITY)]
    return Portrait(
        triggers=_triggers(row),
        triggers_cover=row["triggers_cover"],
        activations=_activations(row["histogram"]) if fired else None,
        positions=_positions(row["place_rate"]) if fired else None,
        raises=_beside(_tokens(row.get("raises")), row.get("raises_logit")),
        lowers=_beside(_tokens(row.get("lowers")), row.get("lowers_logit")),
        neighbours={m: _beside(row[f"{m}_neighbours"], row[m + _SIMILARITY]) for m in measures},
    )


def _triggers(row: dict[str, Any]) -> list[tuple[str, float, int, float]]:
    """Token, P(fire | token), how often it occurs, and its share of the firings."""
    columns = row["triggers"], row["triggers_probability"], row["triggers_share"]
    return [
        (visible_token(token), probability, round(share * row["n_fired"] / probability), share)
        for token, probability, share in zip(*columns, strict=True)
    ]


def _tokens(tokens: list[str] | None) -> list[str]:
    return [visible_token(token) for token in tokens or ()]


def _beside(*columns: list[Any] | None) -> list[Any]:
    """Rows of columns; none where one is missing, as `raises` is away from the residual stream."""
    return list(zip(*(column or () for column in columns), strict=True))


def _activations(counts: list[int]) -> Markup:
    """From the first to the last bin that holds a firing; bins are factors of 2."""
    held = [i for i, n in enumerate(counts) if n]
    first, shown = held[0], counts[held[0] : held[-1] + 1]
    titles = [f"{_range(first + i)}: {count(n)} firings" for i, n in enumerate(shown)]
    n_edges = len(shown) + 1
    ticks = {i: number(bin_floor(first + i)) for i in range(0, n_edges, max(1, n_edges // 4))}
    return histogram(shown, titles, ticks.items(), f"Histogram of activations, {count(sum(counts))} firings")


def _range(i: int) -> str:
    """The activations of bin i; the outer ones hold all that lies beyond."""
    low, high = number(bin_floor(i)), number(bin_floor(i + 1))
    if i == 0:
        return f"below {high}"
    return f"{low} or more" if i == N_BINS - 1 else f"{low} to {high}"


def _positions(rates: list[float | None]) -> Markup:
    """P(fire | place), in firings per million tokens; places are factors of 2, and the last ones may hold no token."""
    known = [rate for rate in rates if rate is not None]
    shown = [round(1e6 * rate) for rate in known]
    places = [
        f"{2**i if i else 0} to {2 ** (i + 1) - 1}" if i < N_PLACES - 1 else f"{2**i} on" for i in range(len(shown))
    ]
    titles = [f"positions {place}: {count(n)} per million" for place, n in zip(places, shown, strict=True)]
    ticks = {i: count(2**i if i else 0) for i in range(0, len(shown), 2)}
    return histogram(shown, titles, ticks.items(), "Firings per million tokens by position in the context")
