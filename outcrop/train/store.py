"""Activations on disk, block by block, so that another training over the same text needs no language model.

    DIRECTORY/MADE_WITH/block-00000.safetensors    one tensor [n d] per hookpoint, and position [n]

`MADE_WITH` is a hash of the model, the text and how it is cut into blocks. A block is written under a temporary
name and renamed; a hookpoint that it lacks is put to those that it has. Of several processes the first one writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from outcrop.errors import CorruptError
from outcrop.run import write_atomically
from outcrop.train import parallel
from outcrop.types import ActivationBatch, Place

_POSITION = "position"


class ActivationStore:
    """The blocks of one text under one model. `say` gets one line before the first block is written: what all of
    them will take."""

    def __init__(self, directory: Path, made_with: str, say: Callable[[str], None]) -> None:
        self._directory, self._say = directory / made_with, say
        self._announced = False

    def load(self, index: int, places: Sequence[Place], device: torch.device) -> dict[Place, ActivationBatch] | None:
        """The block, or None where it is not there with all these places; CorruptError where it cannot be read."""
        tensors = self._read(index, device)
        if tensors is None or any(str(hookpoint) not in tensors for place in places for hookpoint in place):
            return None
        position = tensors[_POSITION].cpu()
        return {(a, b): ActivationBatch(tensors[str(a)], tensors[str(b)], position) for a, b in places}

    def _read(self, index: int, device: torch.device) -> dict[str, torch.Tensor] | None:
        path = self._path(index)
        if not path.exists():
            return None
        try:
            return load_file(path, device=str(device))
        except (SafetensorError, OSError) as error:
            raise CorruptError(f"{path} is truncated or altered ({error}); remove it, and it is made again") from error

    def save(self, index: int, block: Mapping[Place, ActivationBatch], n_tokens: int) -> None:
        """`n_tokens` is how many all blocks together will hold."""
        sides = [(place, (batch.source, batch.target)) for place, batch in block.items()]
        tensors = {str(h): tensor for place, pair in sides for h, tensor in zip(place, pair, strict=True)}
        self._announce(tensors, n_tokens)
        tensors[_POSITION] = next(iter(block.values())).position
        if parallel.is_first():
            before = self._read(index, torch.device("cpu")) or {}
            self._directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(index), save(before | {n: t.cpu().contiguous() for n, t in tensors.items()}))
        parallel.wait_for_all()  # else one would read what another has to compute with it

    def _announce(self, tensors: Mapping[str, torch.Tensor], n_tokens: int) -> None:
        if self._announced:
            return
        per_token = sum(tensor.shape[1] * tensor.element_size() for tensor in tensors.values())
        size = n_tokens * per_token / 1e9
        self._say(f"activations of {n_tokens:,} tokens are kept in {self._directory}: {size:.2f} GB")
        self._announced = True

    def _path(self, index: int) -> Path:
        return self._directory / f"block-{index:05d}.safetensors"
