"""What a latent writes: the tokens whose logits its decoder row d raises and lowers most.

    logits = W_U (norm(d) − norm(0))

with the final norm taken at d itself: its gain and, for a LayerNorm, its centring, at unit size. Only for coders whose
target lies on the residual stream, since what passes elsewhere does not reach the unembedding as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import nn

from outcrop.coders.placed import PlacedCoder
from outcrop.model.load import LanguageModel
from outcrop.types import Hookpoint

_LOGITS = 1 << 26  # held at once


@dataclass(frozen=True)
class Outputs:
    """Of each latent, the tokens with the highest and with the lowest logits, outermost first."""

    raised: Int64[ndarray, "latents n"]
    raised_logit: Float32[ndarray, "latents n"]
    lowered: Int64[ndarray, "latents n"]
    lowered_logit: Float32[ndarray, "latents n"]


@torch.no_grad()
def outputs(
    model: LanguageModel, placed: PlacedCoder, latents: Int64[ndarray, "a"] | None = None, n: int = 10
) -> Outputs | None:
    """Of some latents, by default of all; None where the coder's target is not on the residual stream."""
    head = model.module.get_output_embeddings()
    norm = _final_norm(model.module)
    if head is None or norm is None or not on_residual_stream(model, placed.key.target):
        return None
    rows = placed.coder.decoder_rows().to(model.device)
    if latents is not None:
        rows = rows[torch.from_numpy(latents).to(model.device)]
    zero = norm(torch.zeros_like(rows[:1], dtype=head.weight.dtype))
    weight = head.weight.float()
    raised, lowered = [], []
    for block in rows.split(max(1, _LOGITS // len(weight))):
        direction = (norm(block.to(head.weight.dtype)) - zero).float()
        logits = direction @ weight.T
        raised.append(logits.topk(n))
        lowered.append(logits.topk(n, largest=False))
    both = (torch.cat(tensors).cpu().numpy() for side in (raised, lowered) for tensors in zip(*side, strict=True))
    raised_logit, raised_token, lowered_logit, lowered_token = both
    return Outputs(raised_token, raised_logit, lowered_token, lowered_logit)


def on_residual_stream(model: LanguageModel, hookpoint: Hookpoint) -> bool:
    """Whether what leaves a block, or is added as it is to what enters it, is meant: the block, its attention or its
    MLP, unless a norm stands behind these (Gemma 2, OLMo 2)."""
    blocks = _blocks(model.module)
    if hookpoint.side != "output" or not hookpoint.path.startswith(f"{blocks}."):
        return False
    block, *inner = hookpoint.path.removeprefix(f"{blocks}.").split(".")
    if not inner:
        return True
    normed = hasattr(model.module.get_submodule(f"{blocks}.{block}"), "post_feedforward_layernorm")
    return len(inner) == 1 and not normed and "norm" not in inner[0] and not inner[0].startswith("ln")


def _blocks(module: Any) -> str:
    """Path of the list of the model's blocks."""
    lists = ((path, part) for path, part in module.named_modules() if isinstance(part, nn.ModuleList))
    return next((path for path, part in lists if len(part) == module.config.get_text_config().num_hidden_layers), "")


def _final_norm(module: Any) -> nn.Module | None:
    """The norm behind the blocks: the last child of the model's base whose name says so."""
    named = [part for name, part in module.base_model.named_children() if "norm" in name or name.startswith("ln")]
    return named[-1] if named else None
