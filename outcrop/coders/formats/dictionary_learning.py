"""The layout of dictionary_learning's coders (0.1): config.json names a class, ae.pt holds its state.

A scale of the activations has been folded into the weights before they are saved. Whether a coder was trained to
predict what it reads is not told.

    AutoEncoder              relu, subtracts its bias; decoder rows are brought to unit norm, as its own loader does
    AutoEncoderNew           relu, subtracts nothing
    AutoEncoderTopK          topk
    BatchTopKSAE             batchtopk with its learned threshold
    MatryoshkaBatchTopKSAE   the same, with prefixes
    JumpReluAutoEncoder      jumprelu, subtracts nothing
    GatedAutoEncoder         the jumprelu that it equals
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outcrop.coders.formats.dictionary import Dictionary, gated
from outcrop.coders.formats.files import all_taken, read_config, read_tensors
from outcrop.errors import CoderError

CONFIG, WEIGHTS = "config.json", "ae.pt"

Tensors = dict[str, Tensor]


def read(directory: Path) -> Dictionary:
    trainer, tensors = read_config(directory / CONFIG).get("trainer", {}), read_tensors(directory / WEIGHTS)
    name = trainer.get("dict_class")
    if name not in _CLASSES:
        raise CoderError(
            f"{CONFIG} tells of the class {name!r}; of dictionary_learning's can be read: {', '.join(_CLASSES)}"
        )
    dictionary = _CLASSES[name](tensors, trainer)
    all_taken(tensors, f"dictionary_learning's {name}")
    return replace(dictionary, transcodes=None)


def _autoencoder(tensors: Tensors, trainer: dict[str, Any]) -> Dictionary:
    return Dictionary(*_linear(tensors), tensors.pop("bias"), "relu").with_unit_rows()


def _autoencoder_new(tensors: Tensors, trainer: dict[str, Any]) -> Dictionary:
    return Dictionary(*_linear(tensors), tensors.pop("decoder.bias"), "relu", subtracts_bias=False)


def _topk(tensors: Tensors, trainer: dict[str, Any]) -> Dictionary:
    tensors.pop("threshold", None)  # learned beside, and used only where one asks for it
    return Dictionary(*_linear(tensors), tensors.pop("b_dec"), "topk", k=_k(tensors, trainer))


def _batchtopk(tensors: Tensors, trainer: dict[str, Any]) -> Dictionary:
    k, threshold = _k(tensors, trainer), tensors.pop("threshold")
    return Dictionary(*_linear(tensors), tensors.pop("b_dec"), "batchtopk", k=k, threshold=threshold)


def _matryoshka(tensors: Tensors, trainer: dict[str, Any]) -> Dictionary:
    sizes = tensors.pop("group_sizes", torch.tensor(trainer.get("group_sizes", ()))).tolist()
    return Dictionary(
        *_matrices(tensors),
        tensors.pop("b_dec"),
        "batchtopk",
        k=_k(tensors, trainer),
        threshold=tensors.pop("threshold"),
        matryoshka=tuple(int(prefix) for prefix in accumulate(sizes[:-1])),
    )


def _jumprelu(tensors: Tensors, trainer: dict[str, Any]) -> Dictionary:
    threshold, bias = tensors.pop("threshold"), tensors.pop("b_dec")
    return Dictionary(*_matrices(tensors), bias, "jumprelu", threshold=threshold, subtracts_bias=False)


def _gated(tensors: Tensors, trainer: dict[str, Any]) -> Dictionary:
    return gated(
        tensors.pop("encoder.weight"),
        tensors.pop("decoder.weight").T,
        tensors.pop("decoder_bias"),
        magnitude=tensors.pop("r_mag"),
        magnitude_bias=tensors.pop("mag_bias"),
        gate_bias=tensors.pop("gate_bias"),
        subtracts_bias=True,
        transcodes=None,
    )


_CLASSES: dict[str, Callable[[Tensors, dict[str, Any]], Dictionary]] = {
    "AutoEncoder": _autoencoder,
    "AutoEncoderNew": _autoencoder_new,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batchtopk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jumprelu,
    "GatedAutoEncoder": _gated,
}


def _linear(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder [M d], its bias and decoder [M d], where they are kept as linear layers."""
    return tensors.pop("encoder.weight"), tensors.pop("encoder.bias"), tensors.pop("decoder.weight").T


def _matrices(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """The same, where they are kept as W_enc [d M] and W_dec [M d]."""
    return tensors.pop("W_enc").T, tensors.pop("b_enc"), tensors.pop("W_dec")


def _k(tensors: Tensors, trainer: dict[str, Any]) -> int:
    """Of the weights, or for those that lack it, of the configuration."""
    return int(tensors.pop("k", trainer.get("k", 0)))
