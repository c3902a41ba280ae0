"""Training curves, from the lines of metrics.jsonl: held-out FVU over steps, one picture per coder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from outcrop.report.figures import svg, svg_line, svg_text
from outcrop.report.ledger import coder_label
from outcrop.report.summary import plain
from outcrop.report.text import count, number

_WIDTH, _HEIGHT = 460, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 10, 24


@dataclass(frozen=True)
class Curve:
    """One coder's: what it is called, its last line, and its picture."""

    label: str
    last: dict[str, Any]
    picture: Markup


def curves(lines: Sequence[dict[str, Any]]) -> list[Curve]:
    """By coder. What is not finite is missing."""
    by_coder: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_coder.setdefault(line["coder"], []).append(plain(line))
    return [Curve(coder_label(name), of[-1], _picture(of)) for name, of in sorted(by_coder.items())]


def _picture(lines: Sequence[dict[str, Any]]) -> Markup:
    """FVU on a logarithmic axis, since it falls by factors."""
    known = [line for line in lines if line["fvu"]]
    if not known:
        return Markup("")
    steps, fvu = [line["step"] for line in known], [line["fvu"] for line in known]
    low, high = math.log(min(fvu)) - 0.05, math.log(max(fvu)) + 0.05

    def place(n: int, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * n / max(steps)
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - math.log(value)) / (high - low)

    points = [place(*point) for point in zip(steps, fvu, strict=True)]
    base = float(_HEIGHT - _BOTTOM)
    parts = [svg_line(float(_LEFT), base, float(_WIDTH - _RIGHT), base, "axis")]
    parts += [svg_line(*a, *b, "curve") for a, b in pairwise(points)]
    parts += [Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.5" class="curve"/>').format(*point) for point in points]
    parts += [svg_text(_LEFT - 5, points[i][1] + 4, number(fvu[i]), "end") for i in sorted({0, len(points) - 1})]
    parts.append(svg_text(_WIDTH - _RIGHT, _HEIGHT - 6, f"{count(max(steps))} steps", "end"))
    return svg(_WIDTH, _HEIGHT, f"Held-out FVU of {len(points)} evaluations", parts, "curves")
