"""Which trainings a grid stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outcrop.config import ModelConfig, RunConfig, TextConfig
from outcrop.errors import ConfigError
from outcrop.sweep import points, read_grid

BASE = RunConfig(ModelConfig("m"), TextConfig("t"), ("model.layers.0",))


def test_every_combination_within_a_grid_is_a_training_and_each_is_made_once() -> None:
    grid = {"train.optimizer": ["adam", "muon"], "train.lr": [0.001, 0.002]}
    found = points([{}, grid, {"train.optimizer": ["adam"], "train.lr": [0.001, 0.004]}], BASE, "here")
    assert [point.name for point in found] == [
        "base",
        "optimizer=adam,lr=0.001",
        "optimizer=adam,lr=0.002",
        "optimizer=muon,lr=0.001",
        "optimizer=muon,lr=0.002",
        "optimizer=adam,lr=0.004",
    ]
    assert found[0].config == BASE
    assert (found[4].config.train.optimizer, found[4].config.train.lr) == ("muon", 0.002)
    assert found[4].config.coder == BASE.coder


def test_seeds_and_hookpoints_are_no_other_setting() -> None:
    grid = {"hookpoints": [["a"], ["b"]], "coder.seeds": [[0], [1]], "train.balance-rows": [True]}
    found = points([grid], BASE, "here")
    assert len({point.name for point in found}) == 4
    assert {point.setting for point in found} == {"balance_rows=true"}
    assert {point.config.hookpoints for point in found} == {("a",), ("b",)}


def test_settings_of_one_name_in_several_rooms_are_told_apart_and_values_are_as_read() -> None:
    grids = [
        {"train.batch_tokens": [1024]},
        {"model.batch_tokens": [1024]},
        {"train.lr": [0.001, "1e-3", 0.0010000001]},
    ]
    assert [point.name for point in points(grids, BASE, "here")] == [
        "train.batch_tokens=1024",
        "model.batch_tokens=1024",
        "lr=0.001",
        "lr=0.0010000001",
    ]


def test_names_are_fit_for_files_and_stay_apart() -> None:
    found = points([{"hookpoints": [["model.layers.*"], ["model.layers.?"], ["x" * 300], ["x" * 301]]}], BASE, "here")
    names = [point.name for point in found]
    assert len({*names}) == 4 and max(map(len, names)) < 120
    assert all(not set(name) & set("/*? ") for name in names)


@pytest.mark.parametrize(
    ("grids", "told"),
    [
        ({"train.lr": [1.0]}, "here is no list of grids"),
        ([], "here is no list of grids"),
        ([{"train.lr": 1.0}], "with a list of values for each setting"),
        ([{"train.lr": []}], "with a list of values for each setting"),
        ([{"trian.lr": [1.0]}], "changes 'trian.lr', which is no setting"),
        ([{"train.lrate": [1.0]}], "there is no setting train.lrate"),
        ([{"train.lr": [-1.0]}], "train.lr is -1.0; it must be positive"),
        ([{"seed.x": [1]}], "changes 'seed.x', which is no setting"),
    ],
)
def test_what_is_no_grid_is_told(grids: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        points(grids, BASE, "here")


def test_a_grid_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("- {}\n- train.lr: [0.001]\n")
    assert [point.changes for point in read_grid(path, BASE)] == [{}, {"train.lr": 0.001}]
    path.write_text("- [")
    with pytest.raises(ConfigError, match="cannot be read as a grid"):
        read_grid(path, BASE)
