"""Balanced accuracy against firing rate: scored latents as dots that lead to their pages."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from outcrop.dashboard.latents import LatentTable
from outcrop.report.figures import svg, svg_line, svg_text
from outcrop.report.summary import plain
from outcrop.report.text import interval, number, one_in, power_of_ten
from outcrop.results import records

MOST = 3_000  # dots; beyond, as many are drawn at random

_SCORE = "balanced_accuracy"
_WIDTH, _HEIGHT = 680, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 10, 28
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def score_dots(table: LatentTable, address: Callable[[str, int], str]) -> tuple[Markup, int, int] | None:
    """The picture, how many latents are in it, and how many have the score; None where none has."""
    known = np.flatnonzero(~np.isnan(table.columns[_SCORE].astype(float)))
    if not len(known):
        return None
    shown = known if len(known) <= MOST else np.sort(np.random.default_rng(0).choice(known, MOST, replace=False))
    names = ("coder", "latent", "firing_rate", _SCORE, f"{_SCORE}.low", f"{_SCORE}.high")
    latents = records({name: table.columns[name][shown] for name in names})
    lowest = math.floor(math.log10(min(rate for _, _, rate, *_ in latents)))
    right, base = float(_WIDTH - _RIGHT), float(_HEIGHT - _BOTTOM)

    def place(rate: float, value: float) -> tuple[float, float]:
        x = _LEFT + (right - _LEFT) * (1 - math.log10(rate) / lowest if lowest else 1.0)
        return x, base - (base - _TOP) * min(max(value, 0.0), 1.0)

    parts = [
        svg_line(_LEFT, place(1.0, y)[1], right, place(1.0, y)[1], "chance" if y == 0.5 else "grid") for y in _TICKS
    ]
    parts += [svg_text(_LEFT - 6, place(1.0, y)[1] + 4, f"{y:g}", "end") for y in _TICKS]
    for exponent in range(lowest, 1):
        tick = power_of_ten(exponent) if exponent else "1"
        parts.append(svg_text(place(10.0**exponent, 0.0)[0], _HEIGHT - 8, tick, "end" if exponent == 0 else "middle"))
    for coder, latent, rate, value, low, high in latents:
        told = interval(plain({"low": low, "high": high}))
        title = f"latent {latent}, {one_in(rate)} tokens, {number(value)} {told}"
        parts.append(_dot(address(coder, latent), title, *place(rate, value)))
    label = f"{len(latents)} latents by firing rate and score"
    return svg(_WIDTH, _HEIGHT, label, parts, "dots"), len(latents), len(known)


def _dot(address: str, title: str, x: float, y: float) -> Markup:
    """Not a stop of the Tab key: the table of latents leads to the same pages."""
    link = Markup(
        '<a href="{}" tabindex="-1"><circle cx="{:.1f}" cy="{:.1f}" r="3.5" class="dot"/><title>{}</title></a>'
    )
    return link.format(address, x, y, title)
