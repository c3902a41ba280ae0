"""What came of a sweep, per setting and place: the rows of its coders averaged, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from outcrop.errors import ConfigError
from outcrop.metrics.coverage import macro_mean
from outcrop.report.ledger import place_label
from outcrop.report.text import count, number
from outcrop.types import CoderKey

CONFIDENCE = 0.95
Row = Mapping[str, Any]
Groups = dict[tuple[str, str], list[Row]]  # by place and setting


def read_rows(path: Path) -> list[Row]:
    """One per coder, of a sweep's `table.parquet`. ConfigError for another file."""
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read as the table of a sweep ({error})") from error
    if not rows or not {"coder", "setting", "course_fvu"} <= rows[0].keys():
        raise ConfigError(f"{path} is no table of a sweep; expected its table.parquet")
    return rows


def grouped(rows: Sequence[Row]) -> Groups:
    """The rows that differ in nothing but their seeds."""
    found = Groups()
    for row in rows:
        found.setdefault((place_label(CoderKey.parse(row["coder"])), row["setting"]), []).append(row)
    return found


def mean(rows: Sequence[Row], name: str) -> tuple[float | None, float | None, float | None]:
    """The mean of a measure and its interval, missing where one of the rows has none or there is one row; of the
    share of latents that did not fire the worst layer's, of other measures of layers their mean."""
    values = [_of_layers(name, row[name]) for row in rows]
    if not values or any(value is None for value in values):
        return None, None, None
    estimate = macro_mean(np.array(values, dtype=float)[:, None], CONFIDENCE)
    value, low, high = (float(end[0]) for end in (estimate.value, estimate.low, estimate.high))
    return value, *((None, None) if np.isnan(low) else (low, high))


def _of_layers(name: str, value: Any) -> float | None:
    if not isinstance(value, list):
        return value
    return (max(value) if name == "unfired_share" else float(np.mean(value))) if value else None


def mean_matched(rows: Sequence[Row]) -> float | None:
    """Over those that could be compared; it has no interval, since each coder is in several comparisons."""
    return mean([row for row in rows if row["matched"] is not None], "matched")[0]


def plus_minus(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    """A mean and half its interval, where it has one."""
    if value is None:
        return "—"
    half = "" if low is None or high is None else f" ± {(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{half}"


def worst_unfired(rows: Sequence[Row]) -> float:
    """The share of latents that fired on no unseen token, in the worst layer of the worst row."""
    return max(max(row["unfired_share"]) for row in rows)


def markdown(rows: Sequence[Row], targets: Sequence[float]) -> str:
    """One table per place, settings in their order: means over seeds, with 95% intervals where there are several."""
    n_unfired = max(row["unfired_tokens"] for row in rows)
    columns = {
        "fvu": "FVU",
        "l0": "L0",
        "ce_recovered": "CE recovered",
        "unfired_share": f"unfired on {count(n_unfired)} tokens (worst layer)",
        "overlap": "overlap of layers",
        "matched": "matched over seeds",
        "seconds": "seconds",
    }
    for target in targets:
        columns |= {
            f"tokens_to_{target:g}": f"tokens to FVU {target:g}",
            f"seconds_to_{target:g}": f"seconds to FVU {target:g}",
        }
    groups = grouped(rows)
    lines: list[str] = []
    for place in dict.fromkeys(place for place, _ in groups):
        lines += [f"## {place}", "", f"| setting | n | {' | '.join(columns.values())} |"]
        lines.append("|" + "---|" * (2 + len(columns)))
        for (of, setting), some in groups.items():
            if of == place:
                means = {name: mean(some, name) for name in columns} | {"matched": (mean_matched(some), None, None)}
                cells = (_most(some, name) + _cell(*one, name) for name, one in means.items())
                lines.append(f"| {setting} | {len(some)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _most(rows: Sequence[Row], name: str) -> str:
    """A sign before what is no more than an upper bound: a target was reached before FVU was first measured."""
    unit, _, target = name.partition("_to_")
    return "≤ " if target and any(row[name] == row[f"course_{unit}"][0] for row in rows) else ""


def _cell(value: float | None, low: float | None, high: float | None, name: str) -> str:
    def written(one: float) -> str:
        if name.startswith("tokens") or (name.startswith("seconds") and one >= 10):
            return count(one)
        return number(one) if abs(one) >= 1 else f"{one:.4f}"

    if value is None:
        return "—"
    return written(value) if low is None or high is None else f"{written(value)} [{written(low)}, {written(high)}]"
