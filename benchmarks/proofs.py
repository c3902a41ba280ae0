"""Is every metric right where the truth is known? Plants it, draws many times, and tells what the metrics make of it.

    python benchmarks/proofs.py [--quick] [--only NAME ...] [--draws N]

    intervals      do 95% intervals hold the planted rate, over a grid of rates, sizes and context rates?
    clustered      the same where judgements of a document err together
    windows        do weights undo the sampling of hard negatives, and is the token illusion seen?
    latents        do firing-rate weights undo the selection, and is context dependence right for rare types?
    quantiles      are latents labelled as they were planted, and is the drop-off what was planted?
    calibration    what is left of a judge's planted over-confidence?
    perfect        is the share of perfect latents as expected?
    above          is the share truly above 0.9 what was planted, whatever the number of windows?

The tables are Markdown, those of docs/metrics.md. There is no peer. The last line is JSON: rows and seconds by name.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.proofs, which the tests use, too

from tests.proofs import calibration, intervals, latents, perfect, quantiles, windows

Rows = list[dict[str, Any]]

PROOFS: dict[str, tuple[Callable[[int], Rows], int, int]] = {  # the table, its draws, and those of --quick
    "intervals": (intervals.table, 2_000, 100),
    "clustered": (lambda draws: intervals.table(draws, clustered=True), 2_000, 100),
    "windows": (windows.table, 200, 10),
    "latents": (latents.table, 2_000, 100),
    "quantiles": (quantiles.table, 2_000, 100),
    "calibration": (calibration.table, 20, 1),
    "perfect": (perfect.perfect_table, 200, 20),
    "above": (perfect.table, 20, 1),
}


def markdown(rows: Rows) -> str:
    """A table for each run of rows with the same columns."""
    tables = []
    for names, of in groupby(rows, key=tuple):
        lines = [names, ["---"] * len(names), *([shown(row[name]) for name in names] for row in of)]
        tables.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(tables)


def shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.3f}"
        case _:
            return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few draws")
    parser.add_argument("--only", nargs="+", default=list(PROOFS), choices=list(PROOFS))
    parser.add_argument("--draws", type=int, help="of each table; by default each has its own number")
    options = parser.parse_args()
    told = {}
    for name in options.only:
        table, full, few = PROOFS[name]
        draws = options.draws or (few if options.quick else full)
        start = time.perf_counter()
        rows = table(draws)
        told[name] = {"rows": len(rows), "draws": draws, "seconds": round(time.perf_counter() - start, 1)}
        print(f"\n{name}, {draws} draws\n\n{markdown(rows)}", flush=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
