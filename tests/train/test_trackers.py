"""What trackers are told, by stand-ins for their packages."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outcrop.trackers import trackers

RECORD = {"step": 64, "coder": "topk,a,a,0", "fvu": 0.25, "dead_share": [0.5, None], "rate_histogram": [[1, 2]]}
SCALARS = {"topk,a,a,0/step": 64, "topk,a,a,0/fvu": 0.25, "topk,a,a,0/dead_share/0": 0.5}


def test_every_tracker_gets_the_numbers_at_their_step_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def init(**about: Any) -> Any:
        assert (about["name"], about["dir"], about["config"]) == (tmp_path.name, tmp_path, {"seed": 1})
        return SimpleNamespace(
            log=lambda scalars, step: told.append(("wandb", scalars, step)), finish=lambda: told.append("finished")
        )

    def writer(folder: str) -> Any:
        assert folder == str(tmp_path / "tensorboard")
        return SimpleNamespace(
            add_scalar=lambda name, value, step: told.append((name, value, step)), close=lambda: told.append("closed")
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=writer))  # type: ignore[arg-type]
    with trackers(("wandb", "tensorboard"), tmp_path, {"seed": 1}) as track:
        track(RECORD)
    assert told[0] == ("wandb", SCALARS, 64)
    assert {(name, value) for name, value, step in told[1:-2] if step == 64} == set(SCALARS.items())
    assert sorted(told[-2:]) == ["closed", "finished"]
