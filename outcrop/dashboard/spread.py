"""How the scores of latents are spread, one histogram per score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from outcrop.dashboard.latents import SCORES, LatentTable
from outcrop.report.figures import histogram
from outcrop.report.text import count, number

_BINS = 11  # about as many values from the lowest to the highest, so that chance and 0 lie within one
_ENDS = {"accuracy_skill": (-1.0, 1.0), "token_illusion": (-1.0, 1.0), "beyond_tokens": (-2.0, 2.0)}  # else 0 and 1


@dataclass(frozen=True)
class Spread:
    """Of one score, over the latents that have it."""

    name: str  # as the summary has it
    title: str
    picture: Markup


def score_spreads(table: LatentTable) -> list[Spread]:
    """Of each score that a latent has."""
    known = {name: table.columns[name][~np.isnan(table.columns[name].astype(float))] for name in SCORES}
    return [Spread(name, SCORES[name], _picture(name, values)) for name, values in known.items() if len(values)]


def _picture(name: str, values: np.ndarray) -> Markup:
    """The outer bins hold what lies beyond them, too: skill has no least value."""
    lowest, highest = _ENDS.get(name, (0.0, 1.0))
    half = (highest - lowest) / (_BINS - 1) / 2
    edges = np.linspace(lowest - half, highest + half, _BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    titles = [
        f"{number(low)} to {number(high)}: {count(n)} latents"
        for low, high, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    ]
    titles[0] = f"below {number(float(edges[1]))}: {count(int(counts[0]))} latents"
    titles[-1] = f"{number(float(edges[-2]))} or more: {count(int(counts[-1]))} latents"
    beyond = "≤ " if values.min() < edges[0] else ""
    middles = {0: lowest, _BINS // 2: (lowest + highest) / 2, _BINS - 1: highest}
    ticks = {i + 0.5: (beyond if i == 0 else "") + f"{value:g}".replace("-", "−") for i, value in middles.items()}
    return histogram(counts.tolist(), titles, ticks.items(), f"{SCORES[name]} of {count(len(values))} latents")
