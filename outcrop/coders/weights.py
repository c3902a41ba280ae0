"""Saving and loading coders, our own and other libraries'.

Ours are `cfg.json` and `sae.safetensors`, and take raw activations (`folding`). One that sparsify can express,
which has a single TopK or GroupMax layer without dense layers, is laid out as sparsify's own, so that sparsify
and delphi load it as theirs; any other has its state's tensors one by one. `cfg.json` holds under `outcrop`
what sparsify does not know. The layouts of others are read by `formats`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save
from torch import Tensor

from outcrop.coders.formats import FILES, READERS, sparsify
from outcrop.coders.formats.files import read_config, read_tensors
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture
from outcrop.errors import CoderError, ConfigError, shortened
from outcrop.run import write_atomically
from outcrop.types import CoderKey

CONFIG, WEIGHTS = sparsify.CONFIG, sparsify.WEIGHTS

_ARCHITECTURE = TypeAdapter(Architecture)


def save_coder(coder: SparseStack, directory: Path, max_norm: float | None) -> None:
    """Write both files into an existing directory."""
    as_sparsify = sparsify.can_express(coder)
    config, tensors = sparsify.contents(coder) if as_sparsify else ({}, _state(coder))
    # In sparsify's layout a single layer has been moved to the residual read.
    architecture = replace(coder.architecture, reads="residual") if as_sparsify else coder.architecture
    config["outcrop"] = {
        "architecture": asdict(architecture),
        "d_in": coder.d_in,
        "d_out": coder.d_out if coder.transcodes else None,
        "read_scale": coder.read_scale,
        "max_norm": max_norm,
    }
    _write(directory, config, tensors)


def write_sparsify(coder: SparseStack, directory: Path) -> None:
    """Write a coder as sparsify does, with nothing of ours; CoderError says what sparsify cannot hold."""
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory, *sparsify.contents(coder))


def load_coder(directory: Path, *, transcodes: bool = False) -> tuple[SparseStack, float | None]:
    """A coder of ours or of another library, ready for inference, and its sink norm.

    `transcodes` says whether it is to predict another place than it reads, for layouts that do not tell. CoderError
    says what is wrong with the files, or what in them no coder of ours can be.
    """
    name = _weights_in(directory)
    try:
        ours = read_config(directory / CONFIG).get("outcrop", {}) if name == WEIGHTS else {}
        if "architecture" in ours:
            coder = _load_own(directory, ours)
        else:
            coder = READERS[name](directory).placed(transcodes=transcodes).coder()
    except (RuntimeError, KeyError, TypeError, ValueError, ValidationError) as error:
        reason = shortened(str(error), 300)
        raise CoderError(f"{directory / name} does not fit its configuration: {reason}") from error
    except CoderError as error:
        if str(directory) in str(error):
            raise
        raise CoderError(f"{directory}: {error}") from error
    except ConfigError as error:
        raise CoderError(f"{directory} tells of a coder that cannot be: {error}") from error
    return coder.requires_grad_(False).eval(), ours.get("max_norm")


def find_coder(path: str, key: CoderKey, *, alone: bool) -> Path:
    """The folder of a key's coder: `path` itself if it is the only one wanted, or the one there that is named for
    the hookpoint or the key, as in a run directory. A path that is no folder here is taken for a hub name."""
    hookpoints = dict.fromkeys(map(str, key.place))
    # sparsify names them within the base model, a transcoder's by its module
    within = (name.partition(".")[2] for name in (*hookpoints, *(hookpoint.path for hookpoint in key.place)))
    names = [*([""] if alone else []), *hookpoints, *filter(None, dict.fromkeys(within)), str(key)]
    root = Path(path) if Path(path).exists() else from_hub(path, names)
    names.append(f"coders/{key}")  # of a run directory
    for name in names:
        if holds_coder(root / name):
            return root / name
    places = " or ".join(str(root / name) for name in names)
    raise CoderError(f"{path} holds no coder for {key.source}: expected {' or '.join(READERS)} in {places}")


def holds_coder(directory: Path) -> bool:
    return any((directory / name).exists() for name in READERS)


def from_hub(name: str, folders: Sequence[str] = ("",)) -> Path:
    """A folder of a repository of the hub, `owner/repository/folder/within`, with what is read of coders there and
    in the `folders` below it; CoderError if there is no such repository."""
    if name.startswith((".", "/", "~")):
        raise CoderError(f"there is no directory {name} to read a coder from")
    owner, repository, *within = name.split("/") if name.count("/") else (name, "")
    base = Path(*within)
    wanted = [(base / folder / file).as_posix() for folder in folders for file in FILES]
    try:
        return Path(snapshot_download(f"{owner}/{repository}".rstrip("/"), allow_patterns=wanted)) / base
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = shortened(str(error), 200)
        raise CoderError(f"{name} is neither a directory nor a repository on the hub ({reason})") from error


def _weights_in(directory: Path) -> str:
    """Which layout it is, by the file that holds its weights."""
    for name in READERS:
        if (directory / name).exists():
            return name
    raise CoderError(
        f"{directory} cannot be read as a coder: it holds none of {', '.join(READERS)}, as outcrop, sparsify, SAELens, "
        "Gemma Scope and dictionary_learning name their weights"
    )


def _load_own(directory: Path, ours: dict[str, Any]) -> SparseStack:
    tensors = read_tensors(directory / WEIGHTS)
    architecture = _ARCHITECTURE.validate_python(ours["architecture"])
    coder = SparseStack(architecture, ours["d_in"], ours["d_out"], read_scale=ours["read_scale"])
    coder.load_state_dict({sparsify.OUR_NAMES.get(name, name): tensor for name, tensor in tensors.items()})
    return coder


def _state(coder: SparseStack) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in coder.state_dict().items()}


def _write(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    write_atomically(directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write_atomically(directory / WEIGHTS, save(tensors))
