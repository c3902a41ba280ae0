"""The primitives of `reference`, each computed by whichever backend fits its tensors.

float32 on the CPU goes through the compiled kernels where a C compiler is found; everything else,
float64 and other devices, goes through plain torch. This is the only place that chooses.
"""

from __future__ import annotations

from types import ModuleType

import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from outcrop.kernels import cpu, reference
from outcrop.kernels.reference import Codes, FiringCounts, Rows, Threshold


def backend(*tensors: Tensor) -> ModuleType:
    """The module whose functions serve these tensors."""
    fits = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return cpu if fits and cpu.available() else reference


def topk(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], k: int, *, signed: bool = False
) -> Codes:
    """The k largest of ReLU(x Wᵀ + b) per token; `signed` leaves the ReLU out."""
    return backend(x, weight, bias).topk(x, weight, bias, k, signed=signed)


def batchtopk(x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], k: int) -> Codes:
    """The n·k largest over the batch; the smallest positive value is the batch's threshold."""
    return backend(x, weight, bias).batchtopk(x, weight, bias, k)


def groupmax(x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], k: int) -> Codes:
    """The largest of each of k contiguous groups of latents, per token."""
    return backend(x, weight, bias).groupmax(x, weight, bias, k)


def above(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], threshold: Threshold
) -> Codes:
    """Every positive pre-activation over the threshold."""
    return backend(x, weight, bias).above(x, weight, bias, threshold)


def weighted_rows(
    values: Float[Tensor, "n k"], indices: Int64[Tensor, "n k"], weight: Float[Tensor, "M d"]
) -> Float[Tensor, "n d"]:
    """Σ_j values_j · weight[indices_j]"""
    return backend(values, weight).weighted_rows(values, indices, weight)


def row_products(
    rows: Float[Tensor, "n d"], indices: Int64[Tensor, "n k"], weight: Float[Tensor, "M d"]
) -> Float[Tensor, "n k"]:
    """The scalar product of each token's row with the weights of its latents."""
    return backend(rows, weight).row_products(rows, indices, weight)


def transposed_product(
    values: Float[Tensor, "n k"], indices: Int64[Tensor, "n k"], rows: Float[Tensor, "n d"], n_latents: int
) -> Float[Tensor, "M d"]:
    """Aᵀ · rows, with A the sparse [n M] matrix of the codes."""
    return backend(values, rows).transposed_product(values, indices, rows, n_latents)


def decode_gradients(
    values: Float[Tensor, "n k"],
    indices: Int64[Tensor, "n k"],
    weight: Float[Tensor, "M d"],
    grad: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "M d"]]:
    """Gradients of weighted_rows for values and weight, from that of its output; none for a value of zero."""
    return backend(values, weight, grad).decode_gradients(values, indices, weight, grad)


def add_co_firings_(
    together: Int32[Tensor, "a b"],
    start: Int64[Tensor, "a_plus_1"],
    tokens: Int32[Tensor, "firings"],
    token_start: Int64[Tensor, "n_plus_1"],
    others: Int32[Tensor, "firings_of_others"],
) -> None:
    """Counts, of each latent and each other one, the tokens on which both fire: latent a owns
    tokens[start[a] : start[a + 1]], on token t fire others[token_start[t] : token_start[t + 1]]."""
    backend().add_co_firings_(together, start, tokens, token_start, others)


def count_firings(
    start: Int64[Tensor, "latents_plus_1"],
    at: Int32[Tensor, "firings"],
    value: Float32[Tensor, "firings"],
    where: Int32[Tensor, "positions 5"],
    *,
    n_types: int,
    n_bins: int,
    n_places: int,
) -> FiringCounts:
    """What is counted of every latent: latent i fires at[start[i] : start[i + 1]], which ascends, with `value`. `where`
    has of each position its token type, its place within the context, the window that it is in or -1, its document and
    which half of the documents that belongs to, 0 or 1. Bin i is of values from 2^(i − n_bins/2) to below twice that,
    the outer ones of all beyond."""
    return backend(value).count_firings(start, at, value, where, n_types=n_types, n_bins=n_bins, n_places=n_places)


def unit_rows_(weight: Float[Tensor, "M d"]) -> None:
    """Brings every row to unit norm, in place."""
    backend(weight).unit_rows_(weight)


def signum_(grad: Rows, z: Rows, x: Rows, y: Rows, *, lr: float, share: float, beta: float, unit: bool) -> None:
    """A step of schedule-free Signum, in place: see `train.optim`. `unit` keeps rows of z and x at unit norm."""
    backend(grad, z, x, y).signum_(grad, z, x, y, lr=lr, share=share, beta=beta, unit=unit)
