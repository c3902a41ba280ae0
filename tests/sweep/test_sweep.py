"""A tiny sweep from text to table; what was trained is not trained again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from outcrop import cli
from outcrop.sweep.table import markdown, mean
from outcrop.sweep.trainings import reached
from tests.tiny_run import arguments

GRID = """
- {}
- train.optimizer: [muon]
  coder.seeds: [[0], [1]]
- hookpoints: [[model.layers.1]]
  coder.layers: [1]
"""


@pytest.fixture(scope="module")
def swept(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept") / "out"
    grid = out.with_name("grid.yaml")
    grid.write_text(GRID)
    settings = arguments(*inputs, None)
    assert cli.main(["sweep", str(out), "--grid", str(grid), "--target-fvu", "0.9", "0.001", *settings]) == 0
    return out


def test_every_training_is_a_row_with_what_came_of_it(swept: Path) -> None:
    rows = pq.read_table(swept / "table.parquet").to_pylist()
    assert [(row["point"], row["coder"].split(",")[1]) for row in rows] == [
        *(("base", f"model.layers.{i}") for i in (0, 1)),
        *((f"optimizer=muon,seeds={seed}", f"model.layers.{i}") for seed in (0, 1) for i in (0, 1)),
        ("hookpoints=model.layers.1,layers=1", "model.layers.1"),
    ]
    for row in rows:
        assert 0 < row["fvu"] < 1 and row["tokens"] >= 4_000 and row["unfired_tokens"] >= 5_000
        assert len(row["unfired_share"]) == len(row["layer_fvu"]) == (1 if "layers=1" in row["point"] else 2)
        assert len(row["overlap"]) == len(row["layer_fvu"]) - 1 and all(0 < one < 1 for one in row["overlap"])
        assert row["course_fvu"][-1] == pytest.approx(row["fvu"], rel=1e-2)
        assert 0 < row["tokens_to_0.9"] < row["tokens"] and row["tokens_to_0.001"] is None
        assert 0 < row["seconds_to_0.9"] < row["seconds"]


def test_latents_are_compared_with_those_of_the_seeds_before(swept: Path) -> None:
    rows = pq.read_table(swept / "table.parquet").to_pylist()
    alike = {(row["point"], row["coder"].split(",")[1]): row["matched"] for row in rows}
    for name in ("model.layers.0", "model.layers.1"):
        assert alike["base", name] is alike["optimizer=muon,seeds=0", name] is None
        second = alike["optimizer=muon,seeds=1", name]
        assert len(second) == 2 and all(0 < one < 1 for one in second)


def test_seeds_are_averaged_in_the_table_that_people_read(swept: Path) -> None:
    text = (swept / "table.md").read_text()
    assert text.count("## model.layers.") == 2 and text.count("| optimizer=muon | 2 | 0.") == 2
    assert "| layers=1 | 1 | 0." in text and "tokens to FVU 0.9" in text
    assert {path.name for path in (swept / "figures").iterdir()} >= {"course-0-seconds.png", "end-1.svg"}


def test_the_language_model_is_run_over_each_text_once_and_runs_share_its_tokens(swept: Path) -> None:
    assert len([*(swept / "activations").iterdir()]) == 3  # of the training, the held-out, and what nobody saw
    tokens = [(run / "tokens" / "train.safetensors").read_bytes() for run in (swept / "runs").iterdir()]
    assert len(tokens) == 4 and len({*tokens}) == 1


def test_a_sweep_goes_on_where_it_was(swept: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(swept, tmp_path / "out"))
    (out / "rows" / "base.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("optimizer*/**/*") if path.is_file()}
    before = pq.read_table(out / "table.parquet").drop_columns(["seconds", "course_seconds", "seconds_to_0.9"])
    shutil.rmtree(out / "runs" / "base")
    assert cli.main(["sweep", str(out)]) == 0  # the targets are those that were named
    after = pq.read_table(out / "table.parquet").drop_columns(["seconds", "course_seconds", "seconds_to_0.9"])
    assert after == before
    assert kept == {path: path.stat().st_mtime_ns for path in kept} and len(kept) > 10


def test_other_settings_for_all_are_refused_where_something_was_made(
    swept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(swept, tmp_path / "out"))
    assert cli.main(["sweep", str(out), "--coder.k", "3"]) == 2
    assert "was made with other settings: coder.k was 4, is 3. Another --out" in capfd.readouterr().err
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert cli.main(["sweep", str(out), "--coder.k", "3", "--fresh", "--target-fvu", "-1"]) == 2
    assert "--target-fvu is -1; expected positive FVUs" in capfd.readouterr().err
    assert kept == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_a_sweep_is_made_anew_where_that_is_asked_for_or_nothing_was_made(
    inputs: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text("- hookpoints: [[model.layers.0]]\n  coder.layers: [1]\n- train.lr: [0.001]\n")
    settings, few = arguments(*inputs, None), ["--coder.layers", "1", "--hookpoints", "model.layers.0"]
    assert cli.main(["sweep", str(out), "--grid", str(grid), *settings, "--model", str(tmp_path / "none")]) == 2
    assert cli.main(["sweep", str(out), "--grid", str(grid), *settings, *few]) == 0
    table = (out / "table.parquet").read_bytes()
    assert cli.main(["sweep", str(out), "--coder.k", "3"]) == 2 and (out / "table.parquet").read_bytes() == table
    assert cli.main(["sweep", str(out), "--coder.k", "3", "--fresh"]) == 0
    assert {row["l0"] for row in pq.read_table(out / "table.parquet").to_pylist()} == {3.0}


def test_a_table_is_there_after_every_training(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(swept, tmp_path / "out"))
    (out / "table.parquet").unlink()
    (out / "rows" / "optimizer=muon,seeds=0.json").unlink()

    def fail(*_: object) -> None:
        raise OSError("no more")

    monkeypatch.setattr("outcrop.sweep.trainings._measured", fail)
    assert cli.main(["sweep", str(out)]) != 0
    assert pq.read_table(out / "table.parquet")["point"].to_pylist() == [
        *(2 * ["base"]), *(2 * ["optimizer=muon,seeds=1"]), "hookpoints=model.layers.1,layers=1"
    ]  # fmt: skip


def test_a_sweep_needs_a_grid(swept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(swept / "config.yaml", tmp_path)
    assert cli.main(["sweep", str(tmp_path)]) == 2
    assert "--grid names a file" in capfd.readouterr().err


def test_a_target_is_reached_between_two_measurements() -> None:
    at, fvu = np.array([100.0, 200.0, 300.0]), np.array([0.6, 0.4, 0.3])
    assert reached(at, fvu, 0.5) == pytest.approx(150)
    assert reached(at, fvu, 0.7) == 100 and reached(at, fvu, 0.1) is None


def test_what_was_reached_before_the_first_measurement_is_an_upper_bound() -> None:
    row = {"coder": "topk,h.0,h.0,0", "setting": "base", "matched": None, "overlap": [], "unfired_tokens": 9}
    row |= {"fvu": 0.3, "l0": 4.0, "ce_recovered": 0.9, "unfired_share": [0.0], "seconds": 30.0}
    row |= {
        "course_tokens": [100.0, 300.0],
        "course_seconds": [10.0, 30.0],
        "tokens_to_0.7": 100.0,
        "seconds_to_0.7": 10.0,
    }
    row |= {"tokens_to_0.4": 200.0, "seconds_to_0.4": 20.0}
    assert markdown([row], [0.7, 0.4]).splitlines()[4].endswith("| 30 | ≤ 100 | ≤ 10 | 200 | 20 |")


def test_a_mean_over_seeds_has_an_interval_and_that_of_layers_is_the_worst() -> None:
    rows = [{"fvu": 0.2, "unfired_share": [0.0, 0.3]}, {"fvu": 0.4, "unfired_share": [0.1, 0.0]}]
    value, low, high = mean(rows, "fvu")
    assert value == pytest.approx(0.3) and low is not None and high is not None and low < 0.3 < high
    assert mean(rows, "unfired_share")[0] == pytest.approx(0.2)
    assert mean(rows[:1], "fvu") == (0.2, None, None)
    assert mean([{"fvu": None}, *rows], "fvu") == (None, None, None)
