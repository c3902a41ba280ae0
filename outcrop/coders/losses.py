"""What a coder is trained to lower, on n tokens in normalised space, where the target has unit variance.

    mse(ŷ) = mean over tokens and dimensions of (y − ŷ)²

    fit          mse of the stack; with prefix losses, mean over the mse of every prefix of it
    matryoshka   mean over layers and dictionary prefixes: mse of ŷ with this layer's latents below the prefix only
    multi-topk   1/8 of the mean over layers: mse of ŷ_{<l} + the 4k largest latents of layer l
    auxk         weight · mean over layers: how badly the dead latents' k_aux largest model the error e_l = y − ŷ_{≤l},
                 ‖e_l − ê_l‖² / ‖e_l‖², times the share of k_aux that there are dead latents for
    spread       weight · mean over layers: variance over latents of the batch's mean pre-activations
    sparsity     weight · sum over layers of the selection's penalty

The first two are averaged together. Sources: Gao et al. 2024 (Multi-TopK, AuxK: arXiv:2406.04093, app. A),
Bussmann et al. 2025 (matryoshka: arXiv:2503.17547). AuxK takes e_l as given, and the spread what
a layer reads: no gradient flows there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from outcrop.coders.stack import LayerOutput, SparseStack
from outcrop.config import TrainConfig

Scalar = Float[Tensor, ""]


def coder_loss(
    coder: SparseStack,
    y: Float[Tensor, "n d_out"],
    outputs: Sequence[LayerOutput],
    dead: Bool[Tensor, "L M"],
    k: int,
    config: TrainConfig,
) -> tuple[Scalar, Scalar]:
    """The whole loss of a batch whose layers gave `outputs`, and the mse of the stack; `dead` says which latents AuxK
    shall revive."""
    fits = [mse(y, output.reconstruction) for output in (outputs if config.prefix_losses else outputs[-1:])]
    of_stack = fits[-1].detach()
    fits += _matryoshka(coder, y, outputs)
    loss = torch.stack(fits).mean() + side_loss(y, outputs, dead, config)
    if config.multi_topk:
        loss = loss + _multi_topk(y, outputs, k) / 8
    return loss, of_stack


def side_loss(
    y: Float[Tensor, "n d_out"],
    outputs: Sequence[LayerOutput],
    dead: Bool[Tensor, "L M"],
    config: TrainConfig,
) -> Scalar:
    """What keeps latents alive and sparse, whatever else is minimised: AuxK, spread, and the selections' penalties."""
    loss = y.new_zeros(())
    if config.spread_weight:
        spreads = [output.layer.mean_preactivations(output.read.detach()).var() for output in outputs]
        loss = loss + config.spread_weight * torch.stack(spreads).mean()
    if config.auxk_weight and bool(dead.any()):
        loss = loss + config.auxk_weight * _auxk(y, outputs, dead)
    for output in outputs:
        if output.codes.penalty is not None:
            loss = loss + config.sparsity_weight * output.codes.penalty
    return loss


def mse(y: Float[Tensor, "n d"], reconstruction: Float[Tensor, "n d"]) -> Scalar:
    return _MeanSquare.apply(y, reconstruction)  # type: ignore[no-untyped-call]


class _MeanSquare(torch.autograd.Function):
    """‖ŷ − y‖² / nd; ∂ŷ = 2 (ŷ − y) / nd."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, reconstruction: Tensor) -> Tensor:
        error = reconstruction - y
        ctx.save_for_backward(error)
        return torch.linalg.vector_norm(error).square() / error.numel()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (error,) = ctx.saved_tensors
        of_reconstruction = error * (2 * grad / error.numel())
        return (-of_reconstruction if ctx.needs_input_grad[0] else None), of_reconstruction


def _matryoshka(coder: SparseStack, y: Tensor, outputs: Sequence[LayerOutput]) -> Iterator[Scalar]:
    for output in outputs:
        for prefix in coder.architecture.matryoshka:
            yield mse(y, output.before + output.layer.decode(output.codes, prefix))


def _multi_topk(y: Tensor, outputs: Sequence[LayerOutput], k: int) -> Scalar:
    losses = []
    for output in outputs:
        wide = output.layer.widest(output.read, min(4 * k, output.layer.n_latents), output.centre)
        losses.append(mse(y, output.before + output.layer.decode(wide)))
    return torch.stack(losses).mean()


def _auxk(y: Tensor, outputs: Sequence[LayerOutput], dead: Bool[Tensor, "L M"]) -> Scalar:
    losses = [
        _revival(output, (y - output.reconstruction).detach(), of_layer)
        for output, of_layer in zip(outputs, dead, strict=True)
        if of_layer.any()
    ]
    return torch.stack(losses).sum() / len(outputs)


def _revival(output: LayerOutput, error: Float[Tensor, "n d"], dead: Bool[Tensor, "M"]) -> Scalar:
    indices = dead.nonzero().squeeze(1)
    wanted = max(1, error.shape[1] // 2)  # k_aux, as Gao et al. chose it
    revived = output.layer.revived(output.read.detach(), indices, min(wanted, len(indices)))
    share = min(1.0, len(indices) / wanted)
    return share * mse(error, revived) / error.pow(2).mean().clamp_min(torch.finfo(error.dtype).tiny)
