"""From normalised to raw activations: centring and scaling folded into a coder's weights.

    x̃ = (x − μ_x)/σ_x,  ỹ = (y − μ_y)/σ_y;  an autoencoder has x = y

A layer reads r̃ = p x̃ + q ŷ̃ with (p, q) = (1, −s) residual, (1, s) resnet, (1, 0) parallel, s the read scale.
In raw terms that is r̃ = (r − m)/σ_x of r = p x + q (σ_x/σ_y) ŷ, with m = p μ_x + q (σ_x/σ_y) μ_y.
Decoder rows keep their unit norm, so activations grow by a = σ_y, unless dense layers stand behind
the dictionary (a = 1, and the last of them grows instead):

    first matrix that reads r:  W' = g W / σ_x,  b' = g b − W' m      g = a for the dictionary's own encoder, else 1
    encoder behind dense layers: W' = a W,  b' = a b
    thresholds' = a thresholds;  S' = S σ_y/σ_x;  b_dec' = μ_y + σ_y b_dec − S' μ_x

Folding with μ' = −μ/σ and σ' = 1/σ undoes it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outcrop.coders.layer import SparseLayer
from outcrop.coders.stack import SparseStack


@dataclass(frozen=True)
class Scaling:
    """Mean and scale of raw activations: x = mean + scale · x̃."""

    mean: Float[Tensor, "d"]
    scale: float

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (x - self.mean).div_(self.scale)

    def inverse(self) -> Scaling:
        return Scaling(-self.mean / self.scale, 1 / self.scale)


@torch.no_grad()
def fold(coder: SparseStack, source: Scaling, target: Scaling) -> SparseStack:
    """The same coder for raw activations; relative error below 1e-5."""
    folded = copy.deepcopy(coder)
    folded.read_scale = coder.read_scale * source.scale / target.scale
    mean_x, mean_y = source.mean.to(coder.decoder_bias), target.mean.to(coder.decoder_bias)
    q = {"residual": -1, "resnet": 1, "parallel": 0}[coder.reads] * folded.read_scale
    offset = mean_x + q * mean_y if q else mean_x
    for layer in folded.layers:
        _fold_layer(layer, offset, source.scale, target.scale)
    folded.decoder_bias.mul_(target.scale).add_(mean_y)
    if folded.skip is not None:
        folded.skip.mul_(target.scale / source.scale)
        folded.decoder_bias.sub_(folded.skip @ mean_x)
    return folded


def _fold_layer(layer: SparseLayer, offset: Float[Tensor, "d_in"], scale_x: float, scale_y: float) -> None:
    if layer.dense_out:
        layer.dense_out[-1].weight.mul_(scale_y)
    else:
        layer.scale_activations(scale_y)
    first = layer.dense_in[0] if layer.dense_in else None
    weight, bias = (first.weight, first.bias) if first else (layer.encoder, layer.encoder_bias)
    weight.div_(scale_x)
    bias.sub_(weight @ offset)
