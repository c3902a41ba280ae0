"""The layout of sparsify's coders (EleutherAI, 1.3): one TopK or GroupMax layer.

    autoencoder   pre = W_enc (x − b_dec) + b_enc        ŷ = W_decᵀ codes + b_dec
    transcoder    pre = W_enc x + b_enc                  ŷ = W_decᵀ codes + b_dec (+ W_skip x)

An autoencoder's encoder thus reads what a residual first layer reads; one that reads x, or x + ŷ, is moved there
by its bias. Source and target are of one width, and k divides the latents of GroupMax.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from outcrop.coders.formats.dictionary import Dictionary
from outcrop.coders.formats.files import all_taken, read_config, read_tensors
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture
from outcrop.errors import CoderError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

OUR_NAMES = {
    "encoder.weight": "layers.0.encoder",
    "encoder.bias": "layers.0.encoder_bias",
    "W_dec": "layers.0.decoder",
    "b_dec": "decoder_bias",
    "W_skip": "skip",
}
"""Its tensors in a stack of one layer, by the names of the stack's state."""

_SELECTIONS = ("topk", "groupmax")


def read(directory: Path) -> Dictionary:
    config, tensors = read_config(directory / CONFIG), read_tensors(directory / WEIGHTS)
    activation = config.get("activation", "topk")
    if activation not in _SELECTIONS:
        raise CoderError(f"cfg.json tells of the activation {activation!r}; sparsify has topk and groupmax")
    missing = [name for name in ("d_in", "k") if name not in config]
    if missing:
        raise CoderError(f"cfg.json lacks {', '.join(missing)}; expected outcrop's or sparsify's")
    told = Architecture(selection=activation, n_latents=_n_latents(config), k=config["k"])  # it checks them
    encoder = tensors.pop("encoder.weight")
    transcodes = config.get("transcode", False)
    dictionary = Dictionary(
        encoder,
        tensors.pop("encoder.bias"),
        tensors.pop("W_dec"),
        tensors.pop("b_dec"),
        activation,
        k=told.k,
        subtracts_bias=not transcodes,
        transcodes=transcodes,
        skip=tensors.pop("W_skip") if config.get("skip_connection", False) else None,
    )
    all_taken(tensors, "sparsify's coder")
    shape, expected = tuple(encoder.shape), (told.n_latents, config["d_in"])
    if shape != expected:
        raise CoderError(f"encoder.weight of shape {shape} does not fit cfg.json, which tells of {expected}")
    return dictionary


def can_express(coder: SparseStack) -> bool:
    return _refusal(coder) is None


def contents(coder: SparseStack) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What stands in both files; CoderError says what cannot."""
    refusal = _refusal(coder)
    if refusal is not None:
        raise CoderError(f"{refusal}; sparsify's layout holds one topk or groupmax layer without dense ones")
    own = Dictionary.of(coder)
    if not own.transcodes:
        own = own.with_subtraction()
    tensors = {
        "encoder.weight": own.encoder,
        "encoder.bias": own.encoder_bias,
        "W_dec": own.decoder,
        "b_dec": own.decoder_bias,
        **({} if own.skip is None else {"W_skip": own.skip}),
    }
    return _config(own), {name: tensor.contiguous() for name, tensor in tensors.items()}


def _config(own: Dictionary) -> dict[str, Any]:
    n_latents, d_in = own.encoder.shape
    return {
        "activation": own.selection,
        "k": own.k,
        "num_latents": n_latents,
        "expansion_factor": 0,
        "normalize_decoder": True,
        "multi_topk": False,
        "skip_connection": own.skip is not None,
        "transcode": own.transcodes,
        "d_in": d_in,
    }


def _refusal(coder: SparseStack) -> str | None:
    """Why the layout cannot hold this coder, or None."""
    a = coder.architecture
    if a.layers > 1 or a.encoder_widths or a.decoder_widths:
        return f"the coder has {a.layers} layer(s) and dense ones of widths {a.encoder_widths + a.decoder_widths}"
    if a.selection not in _SELECTIONS:
        return f"the coder's selection is {a.selection}"
    if coder.d_in != coder.d_out:
        return f"the coder goes from width {coder.d_in} to another, {coder.d_out}"
    if a.selection == "groupmax" and a.latents_per_layer % a.k_per_layer:
        return f"the coder's {a.latents_per_layer} latents are not {a.k_per_layer} groups of equal size"
    return None


def _n_latents(config: dict[str, Any]) -> int:
    n_latents: int = config.get("num_latents") or config["d_in"] * config.get("expansion_factor", 0)
    if not n_latents:
        raise CoderError("cfg.json tells no number of latents; expected num_latents or expansion_factor")
    return n_latents
