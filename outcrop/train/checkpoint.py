"""The state of a training on disk: one directory, complete or absent.

It is written under a temporary name and renamed; the one before is removed only then. The
shuffled block that training was in is not saved but computed again.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_FILE = "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """After `step` steps: the tensors and numbers of every coder, by its key."""

    step: int
    coders: dict[str, dict[str, Any]]


def save(checkpoint: Checkpoint, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / "unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    data = io.BytesIO()  # torch tells of a full disk by a RuntimeError, a file by an OSError
    torch.save({"step": checkpoint.step, "coders": checkpoint.coders}, data)
    (temporary / _FILE).write_bytes(data.getbuffer())
    temporary.rename(directory / f"step-{checkpoint.step:09d}")
    for old in _complete(directory)[:-1]:
        shutil.rmtree(old)


def latest(directory: Path, device: torch.device) -> Checkpoint | None:
    """The newest complete one."""
    complete = _complete(directory)
    if not complete:
        return None
    state = torch.load(complete[-1] / _FILE, map_location=device, weights_only=True)
    return Checkpoint(state["step"], state["coders"])


def _complete(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"))
