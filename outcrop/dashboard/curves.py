"""Training curves, from the lines of metrics.jsonl over steps: held-out FVU, and the share of dead latents by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from outcrop.report.figures import svg, svg_line, svg_text
from outcrop.report.ledger import coder_label
from outcrop.report.summary import plain
from outcrop.report.text import count, number, percent

_WIDTH, _HEIGHT = 460, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 24
_DOT = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.5" class="{}"><title>{}</title></circle>')
_N_DASHES = 5  # kinds of line in the style sheet


@dataclass(frozen=True)
class Curve:
    """One coder's: what it is called, its last line, and its pictures."""

    label: str
    last: dict[str, Any]
    fvu: Markup
    dead: Markup
    keys: list[Markup]  # the lines of the layers


@dataclass(frozen=True)
class _Line:
    """Values over steps, and what a point is called before its value; None is left out."""

    name: str
    points: list[tuple[int, float]]

    @staticmethod
    def of(name: str, steps: Sequence[int], values: Sequence[float | None]) -> _Line:
        return _Line(name, [(n, value) for n, value in zip(steps, values, strict=True) if value is not None])


def curves(lines: Sequence[dict[str, Any]]) -> list[Curve]:
    """By coder. What is not finite is missing."""
    by_coder: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_coder.setdefault(line["coder"], []).append(plain(line))
    return [_curve(coder_label(name), of) for name, of in sorted(by_coder.items())]


def _curve(label: str, lines: Sequence[dict[str, Any]]) -> Curve:
    """FVU on a logarithmic axis, since it falls by factors."""
    steps, shares = [line["step"] for line in lines], [line["dead_share"] for line in lines]
    fvu = _Line.of("", steps, [line["fvu"] or None for line in lines])
    dead = [_Line.of(f"layer {layer}, ", steps, of) for layer, of in enumerate(zip(*shares, strict=True))]
    return Curve(
        label,
        lines[-1],
        _picture([fvu], math.log, number, f"Held-out FVU of {len(fvu.points)} evaluations"),
        _picture(dead, float, percent, f"Dead latents of {len(dead)} layers"),
        [svg(26, 8, "", [svg_line(0, 4, 26, 4, _kind(layer))], "line-key") for layer in range(len(dead))],
    )


def _kind(line: int) -> str:
    return f"curve l{line % _N_DASHES}"


def _picture(
    lines: Sequence[_Line], scale: Callable[[float], float], told: Callable[[float], str], label: str
) -> Markup:
    """Between the least and the largest value, which stand beside it."""
    values = [value for line in lines for _, value in line.points]
    if not values:
        return Markup("")
    last, ends = max(n for line in lines for n, _ in line.points), sorted({min(values), max(values)})
    low, high = scale(ends[0]), scale(ends[-1])
    base, room = float(_HEIGHT - _BOTTOM), _HEIGHT - _TOP - _BOTTOM - 12

    def place(n: int, value: float) -> tuple[float, float]:
        share = (scale(value) - low) / (high - low) if high > low else 0.0
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * n / last, base - 6 - room * share

    parts = [svg_line(float(_LEFT), base, float(_WIDTH - _RIGHT), base, "axis")]
    for i, line in enumerate(lines):
        at, kind = [place(*point) for point in line.points], _kind(i)
        parts += [svg_line(*a, *b, kind) for a, b in pairwise(at)]
        titles = [f"{line.name}step {count(n)}: {told(value)}" for n, value in line.points]
        parts += [_DOT.format(*point, kind, title) for point, title in zip(at, titles, strict=True)]
    parts += [svg_text(_LEFT - 5, place(0, value)[1] + 4, told(value), "end") for value in ends]
    parts.append(svg_text(_WIDTH - _RIGHT, _HEIGHT - 6, f"{count(last)} steps", "end"))
    return svg(_WIDTH, _HEIGHT, label, parts, "curves")
