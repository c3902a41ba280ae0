"""The table of the finals in docs/recipe.md, from that of their sweep.

    python examples/recipe/finals.py benchmarks/results/recipe/finals.parquet

Per hookpoint, depth and training: means over seeds with 95% intervals, and the share of the base's seconds and tokens
after which a training has the base's final FVU (medians over seeds).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from outcrop.errors import ConfigError
from outcrop.report.ledger import place_label
from outcrop.sweep.table import Row, mean, mean_matched, plus_minus, read_rows, worst_unfired
from outcrop.sweep.trainings import reached
from outcrop.types import CoderKey

BASE = "optimizer=adam"
UNITS = ("seconds", "tokens")
COLUMNS = (
    *("hookpoint", "layers", "training", "n", "FVU", "CE recovered", "never fired", "matched", "seconds"),
    *(f"× base's {unit}" for unit in UNITS),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="table.parquet of the sweep")
    groups = defaultdict[tuple[str, str, str], list[Row]](list)
    file = parser.parse_args().file
    try:
        rows = read_rows(file)
    except ConfigError as error:
        parser.error(str(error))
    if not all(row["setting"].startswith("layers=") for row in rows):
        parser.error(f"{file} is not of finals.yaml: it has settings that do not begin with layers=")
    for row in rows:
        layers, _, training = row["setting"].partition(",")
        groups[place_label(CoderKey.parse(row["coder"])), layers, training].append(row)
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for place, layers, training in sorted(groups):
        rows = groups[place, layers, training]
        matched = mean_matched(rows)
        cells = [
            plus_minus(*mean(rows, "fvu"), 4),
            f"{mean(rows, 'ce_recovered')[0]:.3f}",
            f"{worst_unfired(rows):.2%}",
            "—" if matched is None else f"{matched:.2f}",
            f"{np.median([row['seconds'] for row in rows]):.0f}",
            *(_share(rows, groups[place, layers, BASE], unit) for unit in UNITS),
        ]
        about = (place, layers.removeprefix("layers="), training.replace(",", ", "), str(len(rows)))
        print(f"| {' | '.join((*about, *cells))} |")


def _share(rows: Sequence[Row], base: Sequence[Row], unit: str) -> str:
    """Of what the base took; seeds are compared with their like."""
    if rows == base or len(rows) != len(base):
        return "—"
    shares = []
    for row, of_base in zip(rows, base, strict=True):
        at = reached(np.array(row[f"course_{unit}"]), np.array(row["course_fvu"]), of_base["course_fvu"][-1])
        shares.append(np.nan if at is None else at / of_base[unit])
    return f"{np.median(shares):.2f}"


if __name__ == "__main__":
    main()
