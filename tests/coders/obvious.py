"""The slow, obvious coder: everything dense, autograd's own gradients, weights of a `SparseStack`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from outcrop.coders.layer import SparseLayer
from outcrop.coders.stack import SparseStack


def forward(coder: SparseStack, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """ŷ [n d_out] and the activations [n M] of each layer, in training."""
    total = coder.decoder_bias + (x @ coder.skip.T if coder.skip is not None else 0)
    codes = []
    for layer in coder.layers:
        sign = {"residual": -1.0, "resnet": 1.0, "parallel": 0.0}[coder.reads]
        read = x + sign * coder.read_scale * total if sign else x
        activations = select(layer, pre_activations(layer, read), coder.architecture.selection, coder.architecture.k)
        codes.append(activations)
        total = total + decode(layer, activations)
    return total, codes


def pre_activations(layer: SparseLayer, x: Tensor) -> Tensor:
    for linear in layer.dense_in:
        hidden = torch.relu(x @ linear.weight.T + linear.bias)
        x = hidden / (hidden.pow(2).mean(dim=1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
    return x @ layer.encoder.T + layer.encoder_bias


def decode(layer: SparseLayer, activations: Tensor) -> Tensor:
    out = activations @ layer.decoder
    if layer.hidden_bias is not None:
        out = out + layer.hidden_bias
    for linear in layer.dense_out:
        out = F.linear(torch.relu(out), linear.weight, linear.bias)
    return out


def select(layer: SparseLayer, pre: Tensor, selection: str, k: int) -> Tensor:
    """The activations, zero where a latent does not fire."""
    pre = torch.relu(pre)
    mask = torch.zeros_like(pre)
    match selection:
        case "topk":
            for row, kept in zip(pre, mask, strict=True):
                kept[row.argsort(descending=True)[:k]] = 1
        case "batchtopk":
            mask.view(-1)[pre.flatten().argsort(descending=True)[: k * len(pre)]] = 1
        case "groupmax":
            bounds = [group * pre.shape[1] // k for group in range(k + 1)]
            for start, stop in pairwise(bounds):
                for row, kept in zip(pre, mask, strict=True):
                    kept[start + row[start:stop].argmax()] = 1
        case "jumprelu":
            mask = (pre > layer.selection.threshold).to(pre.dtype)
        case "relu":
            mask = torch.ones_like(pre)
    return pre * mask
