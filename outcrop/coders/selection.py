"""Selections: which latents fire on a token, and how strongly, from pre = W_enc x + b_enc.

    topk        the k largest of ReLU(pre), per token                     Gao et al. 2024, arXiv:2406.04093
    batchtopk   the n·k largest of a batch of n tokens; at inference all  Bussmann et al. 2024, arXiv:2412.06410
                above a threshold learned in training
    groupmax    the largest of each of k groups of latents                sparsify
    jumprelu    pre where pre > θ, θ > 0 learned by straight-through      Rajamanoharan et al. 2024, arXiv:2407.14435
                gradients, with a penalty on L0
    relu        ReLU(pre), with a penalty on the L1 norm

A selection belongs to one layer and holds what it learns there; `k` is given anew with every call,
because it may decay over the training.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from outcrop import kernels
from outcrop.coders.codes import Codes, DenseCodes, JumpCodes, SparseCodes
from outcrop.config import Selection

_THRESHOLD_DECAY = 0.9  # of BatchTopK's threshold, per batch
_BANDWIDTH = 0.2  # of JumpReLU's straight-through gradients, in units of the input's standard deviation


class TopK(nn.Module):
    """The k largest of each token."""

    def forward(self, x: Float[Tensor, "n d"], weight: Tensor, bias: Tensor, k: int) -> Codes:
        return SparseCodes(*kernels.encode(x, weight, bias, partial(kernels.topk, k=k)))


class GroupMax(nn.Module):
    """The largest of each of k groups of neighbouring latents."""

    def forward(self, x: Float[Tensor, "n d"], weight: Tensor, bias: Tensor, k: int) -> Codes:
        return SparseCodes(*kernels.encode(x, weight, bias, partial(kernels.groupmax, k=k)))


class BatchTopK(nn.Module):
    """The n·k largest of a batch in training; at inference, all above the threshold that this amounted to."""

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(-1.0))  # negative until the first batch

    def forward(self, x: Float[Tensor, "n d"], weight: Tensor, bias: Tensor, k: int) -> Codes:
        if not self.training:
            return _above(x, weight, bias, self.threshold)
        codes = SparseCodes(*kernels.encode(x, weight, bias, partial(kernels.batchtopk, k=k)))
        self._learn(codes.values.detach())
        return codes

    @torch.no_grad()
    def _learn(self, values: Float[Tensor, "n w"]) -> None:
        """Move the threshold towards the smallest activation of this batch."""
        positive = values[values > 0]
        if len(positive):
            smallest = positive.min()
            decayed = self.threshold.lerp(smallest, 1 - _THRESHOLD_DECAY)
            self.threshold.copy_(torch.where(self.threshold < 0, smallest, decayed))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        self.threshold.mul_(factor)


class JumpReLU(nn.Module):
    """A threshold per latent, learned with the weights from the positive pre-activations within ε/2 of it.

    It starts where about k latents exceed it on a token, if pre-activations are standard normal.
    """

    def __init__(self, n_latents: int, k: int) -> None:
        super().__init__()
        first = max(0.1, NormalDist().inv_cdf(1 - k / (n_latents + 1)))
        self.log_threshold = nn.Parameter(torch.full((n_latents,), math.log(first)))

    @property
    def threshold(self) -> Float[Tensor, "M"]:
        return self.log_threshold.exp()

    def forward(self, x: Float[Tensor, "n d"], weight: Tensor, bias: Tensor, k: int) -> Codes:
        if not self.training:
            return _above(x, weight, bias, self.threshold)
        threshold = self.threshold
        lowest = (threshold.detach() - _BANDWIDTH / 2).clamp_min(0)
        pre, indices = kernels.encode(x, weight, bias, partial(kernels.above, threshold=lowest))
        of_each = threshold.index_select(0, indices.flatten()).view_as(pre)
        activations = _Jump.apply(pre, of_each)  # type: ignore[no-untyped-call]
        fires = _Step.apply(pre, of_each)  # type: ignore[no-untyped-call]
        return JumpCodes(activations, indices, fires.sum(dim=1).mean())

    @torch.no_grad()
    def rescale(self, factor: float | Float[Tensor, "M"]) -> None:
        self.log_threshold.add_(torch.as_tensor(factor).log())


class ReLU(nn.Module):
    """Every positive pre-activation; the penalty on the L1 norm makes them few."""

    def forward(self, x: Float[Tensor, "n d"], weight: Tensor, bias: Tensor, k: int) -> Codes:
        if self.training and kernels.many_fire(kernels.sampled(x, weight, bias)):
            activations = torch.relu(F.linear(x, weight, bias))
            return DenseCodes(activations, activations.sum(dim=1).mean())
        codes = _above(x, weight, bias, bias.new_zeros(()))
        return replace(codes, penalty=codes.values.sum(dim=1).mean())


def _above(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> SparseCodes:
    return SparseCodes(*kernels.encode(x, weight, bias, partial(kernels.above, threshold=threshold)))


def make_selection(name: Selection, n_latents: int, k: int) -> nn.Module:
    match name:
        case "topk":
            return TopK()
        case "batchtopk":
            return BatchTopK()
        case "groupmax":
            return GroupMax()
        case "jumprelu":
            return JumpReLU(n_latents, k)
        case "relu":
            return ReLU()


class _Jump(torch.autograd.Function):
    """pre · H(pre − θ);  ∂/∂θ = −θ/ε · [pre > 0, |pre − θ| < ε/2]"""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        pre, threshold = ctx.saved_tensors
        return grad * (pre > threshold), -(threshold / _BANDWIDTH) * grad * _near(pre, threshold)


class _Step(torch.autograd.Function):
    """H(pre − θ);  ∂/∂θ = −1/ε · [pre > 0, |pre − θ| < ε/2], nothing for pre"""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        pre, threshold = ctx.saved_tensors
        return None, -grad * _near(pre, threshold) / _BANDWIDTH


def _near(pre: Tensor, threshold: Tensor) -> Tensor:
    return (pre > 0) & ((pre - threshold).abs() < _BANDWIDTH / 2)
