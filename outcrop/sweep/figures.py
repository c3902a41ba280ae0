"""Figures of a sweep: how FVU fell, and where it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np

from outcrop.report.drawing import COLOURS, MARKS, Drawn, new_axes
from outcrop.sweep.table import CONFIDENCE, Groups, Row, grouped, mean

_MOST_CURVES = 10  # the settings with the lowest FVU


def figures(rows: Sequence[Row]) -> Iterator[Drawn]:
    groups = grouped(rows)
    for i, place in enumerate(dict.fromkeys(place for place, _ in groups)):
        here: Groups = {key: some for key, some in groups.items() if key[0] == place}
        yield from _courses(f"{i}", place, here)
        yield _ends(f"{i}", place, here)


def _courses(name: str, place: str, groups: Groups) -> Iterator[Drawn]:
    """Held-out FVU over tokens and over seconds, one curve per training."""
    best = sorted(groups, key=lambda key: mean(groups[key], "fvu")[0] or np.inf)[:_MOST_CURVES]
    for unit in ("tokens", "seconds"):
        figure, axes = new_axes(place, 7, 4, f"{unit} of training", "held-out FVU")
        for i, (key, colour, mark) in enumerate(zip(best, cycle(COLOURS), cycle(MARKS), strict=False)):
            line = "-" if i < len(COLOURS) else "--"  # the colours come again
            for j, row in enumerate(groups[key]):
                at, fvu, label = row[f"course_{unit}"], row["course_fvu"], key[1] if j == 0 else None
                axes.plot(at, fvu, line, color=colour, marker=mark, markersize=3, label=label)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)
        yield f"course-{name}-{unit}", figure


def _ends(name: str, place: str, groups: Groups) -> Drawn:
    """Held-out FVU at the end."""
    settings = [setting for _, setting in groups]
    title = f"{place}, {100 * CONFIDENCE:g}% intervals over seeds"
    figure, axes = new_axes(title, 7, 0.8 + 0.22 * len(settings), "held-out FVU", "")
    for i, some in enumerate(groups.values()):
        value, low, high = mean(some, "fvu")
        if low is not None and high is not None:
            axes.hlines(i, low, high, color=COLOURS[0], linewidth=1.2)
        if value is not None:
            axes.plot(value, i, MARKS[0], color=COLOURS[0], markersize=5)
    axes.set_yticks(range(len(settings)), settings, fontsize=7)
    axes.set_ylim(len(settings) - 0.5, -0.5)
    return f"end-{name}", figure
