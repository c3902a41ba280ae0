"""The sparse layer with its gradients.

    values, indices = select(x Wᵀ + b)        encode, with any selection of `primitives`
    y = Σ_j values_j · W_dec[indices_j]       decode
    b                                         centred_bias, of tokens x = x' + c: ∂c = ∂b · W

With A the sparse matrix of the codes and G that of the values' gradients, which is zero wherever the
value is:  ∂x = G·W,  ∂W = Gᵀ·x,  ∂b = Gᵀ·1,  ∂W_dec = Aᵀ·∂y,  ∂values = ∂y · W_dec[indices].
A selected zero is no firing: it gets no gradient, from neither function, unless one asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from outcrop.kernels.primitives import decode_gradients, row_products, transposed_product, weighted_rows
from outcrop.kernels.reference import Codes

Select = Callable[[Tensor, Tensor, Tensor], Codes]


def encode(x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], select: Select) -> Codes:
    """The codes that `select` takes from the pre-activations, such as `partial(topk, k=32)`."""
    values, indices = _Encode.apply(x, weight, bias, select)  # type: ignore[no-untyped-call]
    return values, indices


def sparse_decode(
    values: Float[Tensor, "n k"],
    indices: Int64[Tensor, "n k"],
    weight: Float[Tensor, "M d"],
    *,
    through_zeros: bool = False,
) -> Float[Tensor, "n d"]:
    """The sum of the decoder rows of each token's latents, weighted by their values; `through_zeros` gives a value
    of zero its gradient, for a selection that lets it through to a threshold."""
    return _SparseDecode.apply(values, indices, weight, through_zeros)  # type: ignore[no-untyped-call]


def centred_bias(
    bias: Float[Tensor, "M"], centre: Float[Tensor, "d"], weight: Float[Tensor, "M d"]
) -> Float[Tensor, "M"]:
    """The bias, for tokens to which `centre` was added without its gradient. All tokens have it, as they have the bias:
    its gradient comes through that, and not as the sum of those of the tokens, which then nobody needs."""
    return _CentredBias.apply(bias, centre, weight)  # type: ignore[no-untyped-call]


class _CentredBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, centre: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (weight,) = ctx.saved_tensors
        return grad, grad @ weight, None


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, select: Select) -> Codes:
        values, indices = select(x, weight, bias)
        ctx.save_for_backward(x, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, values, indices = ctx.saved_tensors
        grad = grad_values * (values != 0)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            weighted_rows(grad, indices, weight) if needs_x else None,
            transposed_product(grad, indices, x, len(weight)) if needs_weight else None,
            grad.new_zeros(len(weight)).index_add_(0, indices.flatten(), grad.flatten()) if needs_bias else None,
            None,
        )


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, weight: Tensor, through_zeros: bool) -> Tensor:
        ctx.save_for_backward(values, indices, weight)
        ctx.through_zeros = through_zeros
        return weighted_rows(values, indices, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        values, indices, weight = ctx.saved_tensors
        needs_values, _, needs_weight, _ = ctx.needs_input_grad
        if needs_values and needs_weight and not ctx.through_zeros:
            of_values, of_weight = decode_gradients(values, indices, weight, grad)
            return of_values, None, of_weight, None
        reached = (values != 0) | ctx.through_zeros
        return (
            row_products(grad, indices, weight) * reached if needs_values else None,
            None,
            transposed_product(values, indices, grad, len(weight)) if needs_weight else None,
            None,
        )
