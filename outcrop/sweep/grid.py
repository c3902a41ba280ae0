"""Which trainings a sweep makes: grids of settings over settings that all have in common.

- {}                                   # a training without any change
- train.optimizer: [muon, signum]      # two more
- train.optimizer: [adam]              # three more: every combination within one grid
  train.lr: [0.002, 0.004, 0.008]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from outcrop import config as configs
from outcrop.config import ModelConfig, RunConfig, TextConfig
from outcrop.errors import ConfigError

_SEEDS = "coder.seeds"
_LONGEST = 100  # characters of a name


@dataclass(frozen=True)
class Point:
    """One training: what it changes, by setting and as read, and all its settings."""

    changes: dict[str, Any]
    config: RunConfig

    @property
    def name(self) -> str:
        """A name for files."""
        name = _named(self.changes)
        safe = "".join(c if c.isalnum() or c in "=,.-+_" else "-" for c in name)
        if len(safe) > _LONGEST or safe != name:
            return f"{safe[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return safe

    @property
    def setting(self) -> str:
        """What it changes but for the seed: trainings of one setting are averaged."""
        return _named({name: value for name, value in self.changes.items() if name not in (_SEEDS, "hookpoints")})


def read_grid(path: Path, base: RunConfig) -> list[Point]:
    """ConfigError where the file is no list of grids, or some setting or value is not possible."""
    try:
        grids = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as a grid ({error})") from error
    return points(grids, base, str(path))


def points(grids: Any, base: RunConfig, origin: str) -> list[Point]:
    """Those of all grids, each once, in their order."""
    if not isinstance(grids, Sequence) or not grids or not all(_is_grid(grid) for grid in grids):
        raise ConfigError(
            f"{origin} is no list of grids; expected for example `- train.lr: [0.001, 0.002]`, with a list of values "
            "for each setting"
        )
    found = dict[str, Point]()
    for changes in (changes for grid in grids for changes in _combinations(grid)):
        config = _changed(base, changes, origin)
        read = configs.to_dict(config)
        point = Point({setting: _at(read, setting) for setting in changes}, config)
        found.setdefault(point.name, point)
    return list(found.values())


def _is_grid(grid: Any) -> bool:
    return isinstance(grid, Mapping) and all(isinstance(values, list) and values for values in grid.values())


def _combinations(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """By settings as `config.yaml` has them."""
    settings = [setting.replace("-", "_") for setting in grid]
    for values in product(*grid.values()):
        yield dict(zip(settings, values, strict=True))


def _changed(base: RunConfig, changes: Mapping[str, Any], origin: str) -> RunConfig:
    data = configs.to_dict(base)
    for setting, value in changes.items():
        room, _, name = setting.rpartition(".")
        place = _at(data, room) if room else data
        if not isinstance(place, dict):
            raise ConfigError(f"{origin} changes {setting!r}, which is no setting")
        place[name] = value
    return configs.from_dict(data, origin)


def _at(data: Any, setting: str) -> Any:
    """None where there is nothing of that name."""
    for name in setting.split("."):
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _named(changes: Mapping[str, Any]) -> str:
    return ",".join(f"{_short(setting)}={_told(value)}" for setting, value in changes.items()) or "base"


def _short(setting: str) -> str:
    """Without its room where no other room has a setting of that name."""
    short = setting.rpartition(".")[2]
    return setting if short in _shared() else short


@cache
def _shared() -> set[str]:
    """The names of settings that several rooms have."""
    data = configs.to_dict(RunConfig(ModelConfig(""), TextConfig(""), ("",)))
    names = [name for room in data.values() if isinstance(room, dict) for name in room]
    return {name for name in names if names.count(name) + (name in data) > 1}


def _told(value: Any) -> str:
    match value:
        case bool() | None:
            return str(value).lower()
        case float():
            return f"{value:.12g}"
        case list():
            return "+".join(map(_told, value))
        case _:
            return str(value)
