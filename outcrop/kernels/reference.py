"""The specification of the sparse layer's step, in plain torch.

    encode   pre = x Wᵀ + b;  (values, indices) = the k largest of ReLU(pre), per token
    decode   y = Σ_j values_j · W_dec[indices_j]

Shapes: x [n d_in], W [M d_in], b [M], values and indices [n k], W_dec [M d_out], y [n d_out].

The gradients use the codes' sparsity: with A the sparse [n M] matrix of the codes (or of
their gradients), the weight gradients are Aᵀ·x and Aᵀ·∂y, one sparse product each. Nothing
of size n·k·d, and no dense gradient of size n·M, is ever made. A selected zero is no
firing: it gets no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Codes = tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]


def topk_encode(x: Float[Tensor, "n d_in"], weight: Float[Tensor, "M d_in"], bias: Float[Tensor, "M"], k: int) -> Codes:
    """The k largest ReLU pre-activations of each token; zeros among them have not fired."""
    values, indices = _TopKEncode.apply(x, weight, bias, k)  # type: ignore[no-untyped-call]
    return values, indices


def sparse_decode(
    values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], weight: Float[Tensor, "M d_out"]
) -> Float[Tensor, "n d_out"]:
    """The sum of the decoder rows of each token's latents, weighted by their values."""
    return _SparseDecode.apply(values, indices, weight)  # type: ignore[no-untyped-call]


class _TopKEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Codes:
        values, indices = torch.addmm(bias, x, weight.T).relu_().topk(k, dim=-1, sorted=False)
        ctx.save_for_backward(x, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, values, indices = ctx.saved_tensors
        grad = grad_values * (values > 0)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        n_latents = weight.shape[0]
        return (
            _weighted_rows(grad, indices, weight) if needs_x else None,
            _transposed_product(grad, indices, x, n_latents) if needs_weight else None,
            _transposed_product(grad, indices, grad.new_ones(len(x), 1), n_latents).squeeze(1) if needs_bias else None,
            None,
        )


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, weight)
        return _weighted_rows(values, indices, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, indices, weight = ctx.saved_tensors
        grad = grad.contiguous()
        needs_values, _, needs_weight = ctx.needs_input_grad
        return (
            _row_products(grad, indices, weight) if needs_values else None,
            None,
            _transposed_product(values, indices, grad, weight.shape[0]) if needs_weight else None,
        )


def _weighted_rows(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """[n d]: Σ_j values_j · weight[indices_j]"""
    return F.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")


def _row_products(rows: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """[n k]: the scalar product of each token's row with the weights of its latents."""
    n, k = indices.shape
    offsets = torch.arange(0, n * k, k, device=indices.device)
    bag = torch.arange(n, device=indices.device).repeat_interleave(k)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows, weight, indices.flatten(), offsets, bag, 0, -1
    )
    return flat.view(n, k)


def _transposed_product(values: Tensor, indices: Tensor, rows: Tensor, n_latents: int) -> Tensor:
    """[M d]: Aᵀ · rows, with A the sparse [n M] matrix of the values: a bag of tokens for each latent."""
    k = indices.shape[1]
    latents, order = indices.flatten().sort(stable=True)
    start = latents.bincount(minlength=n_latents).cumsum(0).roll(1)
    start[0] = 0
    return F.embedding_bag(order // k, rows, start, per_sample_weights=values.flatten()[order], mode="sum")
