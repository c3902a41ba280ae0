"""The tables and figures of docs/depth.md, from that of the sweep in stack.yaml and that of time.yaml.

    python examples/depth/tables.py benchmarks/results/depth/stack.parquet \\
        --time benchmarks/results/depth/time.parquet --figures docs/depth

Per hookpoint and coder: means over seeds with 95% intervals; what is left of the variance beside what one layer of M
latents leaves; the latents that never fired, in the worst layer of the worst seed; and milliseconds of training per
1,000 tokens, of trainings that ran alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from outcrop.errors import ConfigError
from outcrop.report.drawing import COLOURS, MARKS, Drawn, files, new_axes
from outcrop.run import write_atomically
from outcrop.sweep.table import Groups, Row, grouped, mean, mean_matched, plus_minus, read_rows, worst_unfired

ONE = "layers=1"
STACKS = {depth: f"layers={depth}" for depth in range(1, 6)}
WIDE = {1: ONE} | {times: f"n_latents={2304 * times},k={16 * times}" for times in range(2, 6)}
WIDEST = {5: "n_latents=11520,k=16"}
COLUMNS = (
    *("coder", "n", "FVU", "× one layer's", "CE recovered", "KL"),
    *("never fired", "overlap", "matched", "ms / 1,000 tokens"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="table.parquet of the sweep")
    parser.add_argument("--time", type=Path, help="that of the sweep whose trainings ran alone")
    parser.add_argument("--figures", type=Path, help="a directory for the figures")
    options = parser.parse_args()
    try:
        groups, alone = grouped(read_rows(options.file)), grouped(read_rows(options.time) if options.time else [])
    except ConfigError as error:
        parser.error(str(error))
    if not all((place, ONE) in groups for place, _ in groups):
        parser.error(f"{options.file} is not of stack.yaml: it has no training with {ONE}")
    times = {key: 1e6 * rows[0]["seconds"] / rows[0]["tokens"] for key, rows in alone.items()}
    for place in dict.fromkeys(place for place, _ in groups):
        print(f"### {place}\n\n| {' | '.join(COLUMNS)} |")
        print("|---" * len(COLUMNS) + "|")
        for setting in (setting for of, setting in groups if of == place):
            print(f"| {' | '.join(_cells(groups, place, setting, times))} |")
        print()
    if options.figures:
        options.figures.mkdir(parents=True, exist_ok=True)
        for name, content in files(lambda: _figures(groups)).items():
            write_atomically(options.figures / name, content)


def _cells(groups: Groups, place: str, setting: str, times: Mapping[tuple[str, str], float]) -> Iterator[str]:
    rows = groups[place, setting]
    yield from (setting.replace(",", ", "), str(len(rows)))
    yield plus_minus(*mean(rows, "fvu"), 4)
    yield f"{_value(rows, 'fvu') / _value(groups[place, ONE], 'fvu'):.2f}"
    yield from (plus_minus(*mean(rows, name), 3) for name in ("ce_recovered", "kl"))
    yield f"{worst_unfired(rows):.2%}"
    yield f"{_value(rows, 'overlap'):.2f}" if rows[0]["overlap"] else "—"
    matched = mean_matched(rows)
    yield "—" if matched is None else f"{matched:.2f}"
    yield f"{times[place, setting]:.1f}" if (place, setting) in times else "—"


def _value(rows: Sequence[Row], name: str) -> float:
    value, _, _ = mean(rows, name)
    assert value is not None
    return value


def _figures(groups: Groups) -> Iterator[Drawn]:
    for i, place in enumerate(dict.fromkeys(place for place, _ in groups)):
        figure, axes = new_axes(place, 5.5, 3.6, "parameters, in those of one layer of M latents", "held-out FVU")
        _curve(axes, groups, place, STACKS, 0, "stack: M latents and k in each layer")
        _curve(axes, groups, place, WIDE, 1, "one layer: as many parameters, as large an L0")
        _curve(axes, groups, place, WIDEST, 2, "one layer: 5 M latents, k of one")
        axes.set_xticks(list(STACKS))
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
        yield f"fvu-{i}", figure


def _curve(axes: Axes, groups: Groups, place: str, settings: Mapping[int, str], i: int, label: str) -> None:
    at = [size for size, setting in settings.items() if (place, setting) in groups]
    values = [_value(groups[place, settings[size]], "fvu") for size in at]
    axes.plot(at, values, color=COLOURS[i], marker=MARKS[i], markersize=4, label=label)


if __name__ == "__main__":
    main()
