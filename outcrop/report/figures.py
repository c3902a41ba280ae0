"""Figures as inline SVG. Colours come from the page's style sheet; marks differ by shape as well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from outcrop.report.text import count, number, power_of_ten

ARM_NAMES = {
    "explanation": "explanation",
    "no_explanation": "no explanation",
    "token_baseline": "token baseline",
}
AGAINST = {
    "balanced_accuracy": "all, natural mix",
    "balanced_accuracy_random": "random",
    "balanced_accuracy_same_token": "same token",
    "balanced_accuracy_neighbour": "neighbour",
    "balanced_accuracy_semantic": "semantic",
}
_WIDTH = 460
_LEFT, _RIGHT = 156, 54  # room for labels and values
_ARM_STEP, _ROW_GAP = 15, 13
_LOWEST = -4  # decade at which logarithmic axes begin; what lies below stands at their edge


def judged_arms(summary: dict[str, Any]) -> dict[str, str]:
    """The names of those in which windows of the run were judged."""
    macros = [one["macro"] for one in summary["scores"]["aggregates"]]
    return {arm: name for arm, name in ARM_NAMES.items() if any(of["n"] for one in macros for of in one[arm].values())}


def svg(
    width: int | float, height: int | float, label: str, parts: Sequence[Markup], kind: str, aspect: str = "xMidYMid"
) -> Markup:
    opening = Markup(
        '<svg class="figure {}" viewBox="0 0 {:g} {:g}" preserveAspectRatio="{}" role="img" aria-label="{}">'
    )
    return opening.format(kind, width, height, aspect, label) + Markup("").join(parts) + Markup("</svg>")


def svg_text(x: int | float, y: int | float, text: str, anchor: str = "start", kind: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, text)


def svg_line(x1: int | float, y1: int | float, x2: int | float, y2: int | float, kind: str) -> Markup:
    line = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return line.format(x1, y1, x2, y2, kind)


def _rect(x: int | float, y: int | float, width: int | float, height: int | float, kind: str, title: str) -> Markup:
    rect = Markup('<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" class="{}"><title>{}</title></rect>')
    return rect.format(x, y, width, height, kind, title)


def ledger_bar(counts: dict[str, int]) -> Markup:
    """One stacked bar; a status that occurs is at least a sliver wide, so that it can be seen."""
    total = sum(counts.values())
    present = {status: n for status, n in counts.items() if n}
    sliver = 6.0
    room = 1000 - sliver * len(present)
    parts, x = [], 0.0
    for status, n in present.items():
        width = sliver + room * n / total
        title = f"{status}: {count(n)} of {count(total)}"
        parts.append(_rect(x, 0, max(width - 2, 2), 34, f"status {slug(status)}", title))
        x += width
    label = "Latents per status: " + ", ".join(f"{status} {count(n)}" for status, n in counts.items())
    return svg(1000, 34, label, parts, "ledger-bar", aspect="none")


def slug(status: str) -> str:
    return status.replace(" ", "-")


def rate_histogram(entry: dict[str, Any]) -> Markup:
    """Latents of one layer over log10 of their firing rate."""
    edges, counts = entry["edges"], entry["counts"]
    titles = [
        f"10^{low:g} to 10^{high:g}: {count(n)} latents"
        for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    ticks = {i: _power(edge) for i, edge in enumerate(edges) if float(edge).is_integer()}
    label = f"Histogram of log10 firing rate, layer {entry['layer']}, {entry['n_latents']} latents"
    return histogram(counts, titles, ticks.items(), label)


def histogram(
    counts: Sequence[int], titles: Sequence[str], ticks: Iterable[tuple[int | float, str]], label: str
) -> Markup:
    """Bars side by side, the tallest with its number; edge i, where a tick may stand, is before bar i."""
    width, height, base, top = 340, 132, 104, 16
    peak, step = max(*counts, 1), (width - 16) / len(counts)
    parts = [svg_line(8, base, width - 8, base, "axis")]
    for i, (n, title) in enumerate(zip(counts, titles, strict=True)):
        size = (base - top) * n / peak
        if n:
            parts += [_rect(8 + i * step + 0.75, base - size, step - 1.5, size, "bar", title)]
    for edge, tick in ticks:
        x = 8 + edge * step
        parts += [svg_line(x, base, x, base + 4, "axis"), svg_text(x, base + 17, tick, _edge_anchor(x, width))]
    tallest = counts.index(max(counts))
    at = 8 + (tallest + 0.5) * step, base - (base - top) * max(counts) / peak - 4
    parts.append(svg_text(*at, count(max(counts)), "middle"))
    return svg(width, height - 8, label, parts, "histogram")


def _power(exponent: int | float) -> str:
    return power_of_ten(int(exponent)) if exponent else "1"


def _edge_anchor(x: int | float, width: int | float) -> str:
    return "start" if x < 16 else "end" if x > width - 16 else "middle"


def interval_chart(
    rows: Sequence[tuple[str, dict[str, dict[str, Any]]]], label: str, chance: int | float | None = None
) -> Markup:
    """Dots with their intervals on [0, 1]; one row per label, one line in it per arm."""
    parts: list[Markup] = []
    y = 8.0
    for name, arms in rows:
        block = _ARM_STEP * len(arms)
        parts.append(svg_text(0, y + block / 2 + 4, name, kind="label"))
        for arm, estimate in arms.items():
            parts += _interval(y + _ARM_STEP / 2, arm, estimate)
            y += _ARM_STEP
        y += _ROW_GAP
    return svg(_WIDTH, y + 16, label, _axis(y - 4, chance) + parts, "intervals")


def _x(value: int | float) -> int | float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(value, 0.0), 1.0)


def _axis(bottom: int | float, chance: int | float | None) -> list[Markup]:
    parts = [svg_line(_x(tick), 2, _x(tick), bottom, "grid") for tick in (0, 0.25, 0.5, 0.75, 1)]
    parts += [svg_text(_x(tick), bottom + 15, f"{tick:g}", "middle") for tick in (0, 0.5, 1)]
    return parts + ([svg_line(_x(chance), 2, _x(chance), bottom, "chance")] if chance is not None else [])


def _interval(y: int | float, arm: str, estimate: dict[str, Any]) -> list[Markup]:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    parts = []
    if low is not None and high is not None:
        parts.append(svg_line(_x(low), y, _x(high), y, f"whisker {arm}" + ("" if value is not None else " unknown")))
    if value is None:
        return [*parts, svg_text(_WIDTH, y + 4, "missing", "end", "value")]
    return [*parts, _mark(_x(value), y, arm), svg_text(_WIDTH, y + 4, number(value), "end", f"value {arm}")]


def _mark(x: int | float, y: int | float, arm: str) -> Markup:
    """A disc, a ring and a diamond."""
    if arm == "token_baseline":
        path = Markup('<path d="M{:.1f} {:.1f}l5 5l-5 5l-5 -5z" class="mark {}"/>')
        return path.format(x, y - 5, arm)
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="mark {}"/>').format(
        x, y, 4.5 if arm == "explanation" else 4, arm
    )


def reliability_chart(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Markup:
    """Observed rate over mean probability on logarithmic axes; on the line a judge means what it says."""
    size, edge = 260.0, 34.0
    parts = [svg_line(edge, size - edge, size - 8, 8, "chance")]
    for exponent in range(_LOWEST, 1, 2):
        at = _log_place(10.0**exponent, size, edge)
        parts += [
            svg_text(at, size - edge + 16, _power(exponent), "middle"),
            svg_text(edge - 5, size - at + 4, _power(exponent), "end"),
        ]
    for arm, bins in (("no_explanation", before), ("explanation", after)):
        parts += [
            _titled(
                _mark(_log_place(one["predicted"], size, edge), size - _log_place(one["observed"], size, edge), arm),
                f"said {number(one['predicted'])}, observed {number(one['observed'])}, n {count(one['n'])}",
            )
            for one in bins
        ]
    label = f"Observed rate over probability, {len(before)} bins before and {len(after)} after calibration"
    return svg(size, size, label, parts, "reliability")


def _titled(part: Markup, title: str) -> Markup:
    return Markup("<g>{}<title>{}</title></g>").format(part, title)


def _log_place(p: float, size: float, edge: float) -> float:
    share = 1 - max(math.log10(max(p, 1e-300)), _LOWEST) / _LOWEST
    return edge + (size - edge - 8) * share


def small_interval(estimate: dict[str, Any]) -> Markup:
    """One dot with its interval, for a line of text."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    parts = [svg_line(2, 8, 82, 8, "grid"), svg_line(42, 4, 42, 12, "grid")]
    if low is not None and high is not None:
        parts.append(svg_line(2 + 80 * max(low, 0.0), 8, 2 + 80 * min(high, 1.0), 8, "whisker explanation"))
    return svg(84, 16, "", [*parts, _mark(2 + 80 * value, 8, "explanation")], "small")


def legend_mark(arm: str) -> Markup:
    return svg(14, 14, "", [_mark(7, 7, arm)], "key")
