"""Files of coders → configuration and tensors; CoderError says which file is missing or damaged."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from outcrop.errors import CoderError, shortened


def read_config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors, .npz or .pt file, floats in float32; no code is run from it."""
    try:
        match path.suffix:
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            case ".pt":
                tensors = dict(torch.load(path, map_location="cpu", weights_only=True).items())
            case _:
                tensors = load_file(path)
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        AttributeError,
        SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise _unreadable(path, error) from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def all_taken(tensors: dict[str, Tensor], kind: str) -> None:
    """Refuse tensors that nobody asked for: they would have changed what the coder does."""
    if tensors:
        raise CoderError(f"the weights hold {', '.join(sorted(tensors))}, which {kind} does not have")


def _unreadable(path: Path, error: Exception) -> CoderError:
    reason = shortened(str(error), 200)
    return CoderError(f"{path.parent} cannot be read as a coder: {path.name}: {reason}")
