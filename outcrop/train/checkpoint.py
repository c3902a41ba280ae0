"""The state of a training on disk: one directory, complete or absent.

It is written under a temporary name and renamed; the one before is removed only then. The
shuffled block that training was in is not saved but computed again.
"""

from __future__ import annotations

import io
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outcrop.errors import CorruptError
from outcrop.run import write_atomically

_FILE = "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """After `step` steps: the tensors and numbers of every coder, by its key."""

    step: int
    seconds: float  # that the steps took
    made_with: str  # a hash of text, model and settings: a training goes on only with the same
    coders: dict[str, dict[str, Any]]


def save(checkpoint: Checkpoint, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / "unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    data = io.BytesIO()  # torch tells of a full disk by a RuntimeError, a file by an OSError
    torch.save(vars(checkpoint), data)
    write_atomically(temporary / _FILE, data.getvalue())
    temporary.rename(directory / f"step-{checkpoint.step:09d}")
    for old in _complete(directory)[:-1]:
        shutil.rmtree(old)


def latest(directory: Path, device: torch.device) -> Checkpoint | None:
    """The newest complete one; CorruptError if it cannot be read."""
    complete = _complete(directory)
    if not complete:
        return None
    path = complete[-1] / _FILE
    try:
        return Checkpoint(**torch.load(path, map_location=device, weights_only=True))
    except (OSError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise CorruptError(f"{path} cannot be read; remove {directory} and train again") from error


def _complete(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"))
