"""Saving and loading coders: `cfg.json` and `sae.safetensors`.

A saved coder takes raw activations: the centring and scaling of training are folded into it.
With x̃ = (x − μ)/σ and unit-norm decoder rows, activations grow by σ and

    W_enc' = W_enc,   W_dec' = W_dec,   b_dec' = μ + σ b_dec,
    b_enc' = σ b_enc − W_enc · (μ for a read of x, 0 for x − ŷ, 2μ for x + ŷ),

where ŷ holds b_dec from the first layer on.

A coder of one layer is written as sparsify writes its own, whose encoder subtracts b_dec
first; a stack has its layers' tensors one by one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from outcrop.coders.stack import SparseStack
from outcrop.errors import CoderError
from outcrop.run import write_atomically
from outcrop.types import CoderKey

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


@dataclass(frozen=True)
class PlacedCoder:
    """A coder that takes raw activations, the place it was made for, and which tokens it excludes."""

    key: CoderKey
    coder: SparseStack
    max_norm: float | None = None  # tokens of a larger norm at the source are attention sinks


@torch.no_grad()
def fold(coder: SparseStack, mean: Tensor, scale: float) -> SparseStack:
    """The same coder for raw activations, x = mean + scale · x̃."""
    folded = SparseStack(coder.d_in, coder.latents_per_layer, coder.k, coder.n_layers, coder.reads)
    folded.to(coder.decoder_bias)
    mean = mean.to(coder.decoder_bias)
    folded.load_state_dict(coder.state_dict())
    folded.decoder_bias.mul_(scale).add_(mean)
    times_mean = {"parallel": 1, "residual": 0, "resnet": 2}[coder.reads]
    for layer in folded.layers:
        layer.encoder_bias.mul_(scale).sub_(layer.encoder @ (times_mean * mean))
    return folded


def save_coder(coder: SparseStack, directory: Path, max_norm: float | None) -> None:
    """Write both files into an existing directory."""
    config = {
        "activation": "topk",
        "k": coder.k,
        "num_latents": coder.latents_per_layer,
        "expansion_factor": 0,
        "normalize_decoder": True,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": coder.d_in,
        "outcrop": {"layers": coder.n_layers, "reads": coder.reads, "max_norm": max_norm},
    }
    write_atomically(directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write_atomically(directory / WEIGHTS, save(_tensors(coder)))


def load_coder(directory: Path) -> tuple[SparseStack, float | None]:
    """A coder of ours or of sparsify's, and its sink norm; CoderError says what is wrong with the files."""
    config, tensors = _read(directory)
    ours = config.get("outcrop", {"layers": 1, "reads": "residual", "max_norm": None})
    unsupported = [name for name in ("skip_connection", "transcode", "multi_topk") if config.get(name)]
    if config.get("activation", "topk") != "topk":
        unsupported.append(f"activation {config['activation']}")
    if unsupported:
        raise CoderError(f"{directory} is a coder with {', '.join(unsupported)}; only TopK autoencoders can be read")
    missing = [name for name in ("d_in", "k") if name not in config]
    if missing:
        raise CoderError(f"{directory / CONFIG} lacks {', '.join(missing)}; expected outcrop's or sparsify's")
    n_latents = config.get("num_latents") or config["d_in"] * config["expansion_factor"]
    one = ours["layers"] == 1
    coder = SparseStack(config["d_in"], n_latents, config["k"], ours["layers"], "residual" if one else ours["reads"])
    try:
        coder.load_state_dict(_from_sparsify(tensors) if one else tensors)
    except (RuntimeError, KeyError) as error:
        raise CoderError(
            f"{directory / WEIGHTS} does not fit its {CONFIG}: {' '.join(str(error).split())[:300]}"
        ) from error
    return coder.requires_grad_(False), ours["max_norm"]


def _tensors(coder: SparseStack) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in coder.state_dict().items()}
    if coder.n_layers > 1:
        return state
    encoder, bias = state["layers.0.encoder"], state["decoder_bias"]
    # sparsify reads x − b_dec, which is what a residual first layer reads; a read of x or x + ŷ is moved there.
    shift = {"residual": 0, "parallel": 1, "resnet": 2}[coder.reads]
    return {
        "encoder.weight": encoder,
        "encoder.bias": state["layers.0.encoder_bias"] + encoder @ (shift * bias),
        "W_dec": state["layers.0.decoder"],
        "b_dec": bias,
    }


def _from_sparsify(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the state of a stack of one residual layer."""
    return {
        "layers.0.encoder": tensors["encoder.weight"].float(),
        "layers.0.encoder_bias": tensors["encoder.bias"].float(),
        "layers.0.decoder": tensors["W_dec"].float(),
        "decoder_bias": tensors["b_dec"].float(),
    }


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        return config, load_file(directory / WEIGHTS)
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise CoderError(
            f"{directory} cannot be read as a coder ({error}); expected {CONFIG} and {WEIGHTS}, "
            "as outcrop and sparsify write them"
        ) from error
