"""The layout of Gemma Scope's coders: JumpReLU with a threshold per latent, without subtraction of b_dec.

    pre = W_enc x + b_enc,   ŷ = W_decᵀ jumprelu(pre) + b_dec (+ affine skip)

Gemma Scope (2024) has params.npz alone, which does not tell whether it is a transcoder. Gemma
Scope 2 (2025) has params.safetensors and a config.json that tells the hookpoints. Both keep W_enc as [d_in M].
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from outcrop.coders.formats.dictionary import Dictionary
from outcrop.coders.formats.files import all_taken, read_config, read_tensors
from outcrop.errors import CoderError

WEIGHTS, WEIGHTS_2, CONFIG_2 = "params.npz", "params.safetensors", "config.json"


def read(directory: Path) -> Dictionary:
    return _read(directory / WEIGHTS, transcodes=None)


def read_2(directory: Path) -> Dictionary:
    config = read_config(directory / CONFIG_2)
    architecture = config.get("architecture")
    if architecture != "jump_relu":
        raise CoderError(f"{CONFIG_2} tells of the architecture {architecture!r}; Gemma Scope's jump_relu can be read")
    source, target = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    return _read(directory / WEIGHTS_2, transcodes=source != target)


def _read(path: Path, *, transcodes: bool | None) -> Dictionary:
    tensors = {name.lower(): tensor for name, tensor in read_tensors(path).items()}
    _refuse_several_layers(path, tensors)
    encoder, decoder = tensors.pop("w_enc").T, tensors.pop("w_dec")
    skip = tensors.pop("affine_skip_connection", None)
    dictionary = Dictionary(
        encoder,
        tensors.pop("b_enc"),
        decoder,
        tensors.pop("b_dec"),
        "jumprelu",
        threshold=tensors.pop("threshold"),
        subtracts_bias=False,
        transcodes=transcodes,
        skip=None if skip is None else skip.T,
    )
    all_taken(tensors, "Gemma Scope's coder")
    return dictionary


def _refuse_several_layers(path: Path, tensors: dict[str, Tensor]) -> None:
    for name in ("w_enc", "w_dec"):
        if tensors[name].ndim != 2:
            shape = tuple(tensors[name].shape)
            raise CoderError(
                f"{path} holds a {name} of shape {shape}: a coder over several blocks (crosscoder, cross-layer "
                "transcoder); coders with one source and one target can be read"
            )
