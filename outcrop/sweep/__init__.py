"""Trainings that differ in some settings, over the same activations, compared in one table.

OUT/config.yaml    what all have in common
OUT/grid.yaml      what is changed
OUT/targets.json   held-out FVUs whose times the table tells
OUT/table.parquet  one row per coder
OUT/table.md       one row per setting
OUT/figures/       how FVU fell, and where it ended
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from outcrop import config as configs
from outcrop import stages
from outcrop.config import RunConfig
from outcrop.errors import StaleError
from outcrop.progress import Progress, silent
from outcrop.report.drawing import files
from outcrop.run import RunDirectory, write_atomically, write_parquet
from outcrop.sweep.figures import figures
from outcrop.sweep.grid import Point, points, read_grid
from outcrop.sweep.table import markdown
from outcrop.sweep.trainings import Say, train_all

__all__ = ["Point", "keep_settings", "keep_targets", "points", "read_grid", "sweep"]

_TABLE, _READ = "table.parquet", "table.md"


def keep_settings(folder: Path, config: RunConfig, grid: bytes, *, fresh: bool = False) -> None:
    """What all trainings have in common, and the grid, for a sweep to go on with. Where something was trained there
    with other settings, StaleError, or `fresh` and it is gone."""
    kept = folder / "config.yaml"
    if kept.exists() and _made(folder):
        before = configs.load(kept)
        made = [[stages.settings_of(stage, one) for stage in ("tokens", "train")] for one in (before, config)]
        changes = dict.fromkeys(one for old, new in zip(*made, strict=True) for one in stages.differences(old, new))
        if changes and not fresh:
            raise StaleError(
                f"{folder} was made with other settings: {'; '.join(changes)}. Another --out starts a new sweep, "
                "--fresh makes this one anew."
            )
        if changes:
            for name in ("runs", "rows", "figures"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in (_TABLE, _READ):
                (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, configs.dump(config).encode())
    write_atomically(folder / "grid.yaml", grid)


def keep_targets(folder: Path, targets: Sequence[float]) -> list[float]:
    """Those that are named, kept for a sweep that goes on; else those that were."""
    kept = folder / "targets.json"
    if targets:
        write_atomically(kept, json.dumps(list(targets)).encode())
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []


def _made(folder: Path) -> bool:
    """Whether a stage of some training was begun."""
    return any(RunDirectory(run).marks() for run in (folder / "runs").glob("*"))


def sweep(
    points: Sequence[Point],
    folder: Path,
    *,
    targets: Sequence[float] = (),
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> pa.Table:
    """Train every point that is not trained yet, one after the other, and write the table after each, and at last the
    figures. `targets` are values of the held-out FVU: when each is reached is in the table."""
    folder.mkdir(parents=True, exist_ok=True)
    for rows in train_all(points, folder, targets, progress=progress, say=say):
        table = pa.Table.from_pylist(rows)
        write_parquet(folder / _TABLE, table)
        write_atomically(folder / _READ, markdown(rows, targets).encode())
    (folder / "figures").mkdir(exist_ok=True)
    for name, data in files(lambda: figures(rows)).items():
        write_atomically(folder / "figures" / name, data)
    return table
