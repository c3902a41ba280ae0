"""Trainings that differ in some settings, over the same activations, compared in one table.

OUT/config.yaml    what all have in common
OUT/grid.yaml      what is changed
OUT/table.parquet  one row per coder
OUT/table.md       one row per setting
OUT/figures/       how FVU fell, and where it ended
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from outcrop import config as configs
from outcrop import stages
from outcrop.config import RunConfig
from outcrop.errors import StaleError
from outcrop.progress import Progress, silent
from outcrop.report.drawing import files
from outcrop.run import write_atomically, write_parquet
from outcrop.sweep.figures import figures
from outcrop.sweep.grid import Point, points, read_grid
from outcrop.sweep.table import markdown
from outcrop.sweep.trainings import Say, train_all

__all__ = ["Point", "keep_settings", "points", "read_grid", "sweep"]


def keep_settings(folder: Path, config: RunConfig, grid: bytes) -> None:
    """What all trainings have in common, and the grid, for a sweep to go on with. StaleError where something was
    trained there with other settings."""
    kept = folder / "config.yaml"
    if (folder / "runs").exists() and kept.exists():
        before = configs.load(kept)
        made = [[stages.settings_of(stage, one) for stage in ("tokens", "train")] for one in (before, config)]
        changes = [change for old, new in zip(*made, strict=True) for change in stages.differences(old, new)]
        if changes:
            raise StaleError(
                f"{folder} was made with other settings: {'; '.join(changes)}. Another --out starts a new sweep."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, configs.dump(config).encode())
    write_atomically(folder / "grid.yaml", grid)


def sweep(
    points: Sequence[Point],
    folder: Path,
    *,
    targets: Sequence[float] = (),
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> pa.Table:
    """Train every point that is not trained yet, one after the other, and write the table and the figures. `targets`
    are values of the held-out FVU: when each is reached is in the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = train_all(points, folder, targets, progress=progress, say=say)
    table = pa.Table.from_pylist(rows)
    write_parquet(folder / "table.parquet", table)
    write_atomically(folder / "table.md", markdown(rows, targets).encode())
    (folder / "figures").mkdir(exist_ok=True)
    for name, data in files(lambda: figures(rows)).items():
        write_atomically(folder / "figures" / name, data)
    return table
