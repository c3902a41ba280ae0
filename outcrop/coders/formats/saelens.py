"""The layout of SAELens's coders (6.54, and the configurations of older ones).

    pre = W_enc (x − b_dec) + b_enc     the subtraction only if apply_b_dec_to_input, never in a transcoder
    ŷ = W_decᵀ selection(pre) + b_dec (+ W_skip x)

    standard, transcoder, skip_transcoder                         relu
    topk                                                          topk
    jumprelu, jumprelu_transcoder, jumprelu_skip_transcoder       jumprelu
    batchtopk, matryoshka_batchtopk                               batchtopk
    gated                                                         the jumprelu that it equals

Only checkpoints of a training say batchtopk; for inference such a coder is saved as a jumprelu. With
`rescale_acts_by_decoder_norm` latents are selected by pre · ‖W_dec‖, which is folded into the encoder. A checkpoint
that was trained on scaled activations has their scale in a file of its own, which is folded too. SAELens keeps
W_enc as [d_in M].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from outcrop.coders.formats.dictionary import Dictionary, gated
from outcrop.coders.formats.files import all_taken, read_config, read_tensors
from outcrop.coders.stack import SparseStack
from outcrop.config import Selection
from outcrop.errors import CoderError
from outcrop.run import write_atomically

CONFIG, WEIGHTS, SCALE = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"

_SELECTIONS: dict[str, Selection] = {
    "standard": "relu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "topk": "topk",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
    "jumprelu": "jumprelu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "gated": "jumprelu",
}
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_VERSION = "6.0.0"  # that first read what is written here


def read(directory: Path) -> Dictionary:
    config, tensors = read_config(directory / CONFIG), read_tensors(directory / WEIGHTS)
    architecture = _architecture(config)
    _refuse_other_functions(config, tensors)
    made = _gated(config, tensors) if architecture == "gated" else _plain(architecture, config, tensors)
    all_taken(tensors, f"SAELens's {architecture} coder")
    shape, told = tuple(made.encoder.T.shape), (config["d_in"], config.get("d_sae", len(made.encoder)))
    if shape != told:
        raise CoderError(f"W_enc of shape {shape} does not fit cfg.json, which tells of {told}")
    if config.get("rescale_acts_by_decoder_norm", False):
        made = made.with_unit_rows()
    return made.for_scaled(_scale(config, directory))


def write_saelens(coder: SparseStack, directory: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a coder of one layer so that SAELens loads it, with `metadata` such as model_name and hook_name.

    A batchtopk coder becomes a jumprelu, as SAELens itself saves one. CoderError says what SAELens cannot hold.
    """
    own = Dictionary.of(coder)
    architecture = _architecture_for(own)
    tensors = {"W_enc": own.encoder.T, "b_enc": own.encoder_bias, "W_dec": own.decoder, "b_dec": own.decoder_bias}
    if own.threshold is not None:
        tensors["threshold"] = own.threshold.clamp_min(0).expand(len(own.encoder))
    if own.skip is not None:
        tensors["W_skip"] = own.skip
    config = {
        "architecture": architecture,
        "d_in": coder.d_in,
        "d_sae": len(own.encoder),
        **({"d_out": coder.d_out} if own.transcodes else {}),
        **({"k": own.k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": own.subtracts_bias,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": _VERSION, **(metadata or {})},
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write_atomically(directory / WEIGHTS, save({name: t.float().contiguous() for name, t in tensors.items()}))


def _architecture(config: dict[str, Any]) -> str:
    """By its name in SAELens 6; older configurations name an activation function instead of topk."""
    architecture = config.get("architecture", "standard")
    if architecture not in _SELECTIONS:
        raise CoderError(
            f"cfg.json tells of the architecture {architecture!r}; of SAELens's can be read: {', '.join(_SELECTIONS)}"
        )
    if architecture != "standard":
        return architecture
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if activation not in ("relu", "topk"):
        raise CoderError(f"cfg.json tells of the activation function {activation!r}; relu and topk can be read")
    return "topk" if activation == "topk" else "standard"


def _refuse_other_functions(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Settings under which the coder is more than a dictionary."""
    how = config.get("normalize_activations")
    if how not in (None, False, True, "none", "expected_average_only_in"):
        raise CoderError(
            f"cfg.json tells of normalize_activations {how!r}, which no coder for raw activations can express; "
            "none and a scale that is constant can be read"
        )
    factors = [tensors.pop(name) for name in ("scaling_factor", "finetuning_scaling_factor") if name in tensors]
    if any(not torch.allclose(factor, torch.ones_like(factor)) for factor in factors):
        raise CoderError("the weights hold a finetuning scaling factor other than 1; fold it into W_dec in SAELens")


def _plain(architecture: str, config: dict[str, Any], tensors: dict[str, Tensor]) -> Dictionary:
    selection = _SELECTIONS[architecture]
    transcodes = architecture in _TRANSCODERS
    return Dictionary(
        tensors.pop("W_enc").T,
        tensors.pop("b_enc"),
        tensors.pop("W_dec"),
        tensors.pop("b_dec"),
        selection,
        k=_k(config) if selection in ("topk", "batchtopk") else None,
        threshold=_threshold(selection, tensors),
        subtracts_bias=not transcodes and config.get("apply_b_dec_to_input", True),
        transcodes=transcodes,
        skip=tensors.pop("W_skip") if "skip" in architecture.split("_") else None,
        matryoshka=_prefixes(config),
    )


def _gated(config: dict[str, Any], tensors: dict[str, Tensor]) -> Dictionary:
    return gated(
        tensors.pop("W_enc").T,
        tensors.pop("W_dec"),
        tensors.pop("b_dec"),
        magnitude=tensors.pop("r_mag"),
        magnitude_bias=tensors.pop("b_mag"),
        gate_bias=tensors.pop("b_gate"),
        subtracts_bias=config.get("apply_b_dec_to_input", True),
        transcodes=False,
    )


def _threshold(selection: Selection, tensors: dict[str, Tensor]) -> Tensor | None:
    match selection:
        case "batchtopk":
            return tensors.pop("topk_threshold")
        case "jumprelu" if "log_threshold" in tensors:  # checkpoints before 6.40
            return tensors.pop("log_threshold").exp()
        case "jumprelu":
            return tensors.pop("threshold")
        case _:
            return None


def _k(config: dict[str, Any]) -> int:
    """A whole number: BatchTopK's is a mean over tokens, and may be broken."""
    return max(1, round(config["k"] if "k" in config else config["activation_fn_kwargs"]["k"]))


def _prefixes(config: dict[str, Any]) -> tuple[int, ...]:
    """The prefixes below the whole dictionary; a coder saved for inference has them among its metadata."""
    details = (config.get("metadata") or {}).get("training_architecture_details") or {}
    widths = config.get("matryoshka_widths", details.get("matryoshka_widths", ()))
    return tuple(width for width in widths if width < config["d_sae"])


def _scale(config: dict[str, Any], directory: Path) -> float:
    """By which activations are multiplied before the encoder, 1 where that is folded into the weights."""
    if config.get("normalize_activations") not in (True, "expected_average_only_in"):
        return 1.0
    if not (directory / SCALE).exists():
        raise CoderError(
            "cfg.json tells of activations scaled to an average norm, but the scale is neither folded into the weights "
            f"nor in {SCALE}; fold_activation_norm_scaling_factor of SAELens folds it"
        )
    return float(read_config(directory / SCALE)["scaling_factor"])


def _architecture_for(own: Dictionary) -> str:
    if not own.transcodes:
        names = {"relu": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu"}
    elif own.skip is None:
        names = {"relu": "transcoder", "batchtopk": "jumprelu_transcoder", "jumprelu": "jumprelu_transcoder"}
    else:
        jump = "jumprelu_skip_transcoder"
        names = {"relu": "skip_transcoder", "batchtopk": jump, "jumprelu": jump}
    if own.selection not in names:
        kind = "transcoders" if own.transcodes else "autoencoders"
        raise CoderError(f"SAELens has no {kind} with the selection {own.selection}; it has {', '.join(names)}")
    return names[own.selection]
