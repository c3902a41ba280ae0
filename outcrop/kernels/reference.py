"""The specification of the sparse layer's step, in plain torch, without gradients.

    pre = x Wᵀ + b                                   x [n d_in], W [M d_in], b [M], pre [n M]
    topk       the k largest of ReLU(pre), per token
    batchtopk  the n·k largest of ReLU(pre), over the batch
    groupmax   the largest of ReLU(pre) in each of k contiguous groups of latents, per token
    above      every ReLU(pre) over a threshold

A selection gives codes: values [n k] and indices [n k], in no order. A value of zero has not fired,
whatever its index, and gets no gradient. Three products serve decoding and all gradients, with A the
sparse [n M] matrix of the codes:

    weighted_rows       A · W        [n d]
    row_products        (rows · Wᵀ) at the codes' places        [n k]
    transposed_product  Aᵀ · rows    [M d]

None of them makes anything of size n·k·d or, beyond pre itself, of size n·M. Beside the step stand
add_co_firings_ and count_firings, which count what was cached.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int32, Int64
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

Codes = tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]
Rows = Float[Tensor, "M d"]
_MANY = 1 / 32  # share of the latents
Threshold = float | Float[Tensor, ""] | Float[Tensor, "M"]


class FiringCounts(NamedTuple):
    """One row per latent; latent i has types[indptr[i] : indptr[i + 1]], ascending."""

    total: Float64[Tensor, "latents"]  # of the values
    bins: Int64[Tensor, "latents bins"]  # firings by value
    places: Int64[Tensor, "latents places"]  # firings by place within the context
    windows: Int64[Tensor, "latents 2"]  # with a firing, by half of the documents
    documents: Int64[Tensor, "latents 2"]  # that hold these windows
    indptr: Int64[Tensor, "latents_plus_1"]
    types: Int32[Tensor, "pairs"]  # of the tokens on which it fires
    counts: Int32[Tensor, "pairs"]  # firings on tokens of that type


def topk(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], k: int, *, signed: bool = False
) -> Codes:
    """The k largest of ReLU(pre) per token; `signed` leaves the ReLU out."""
    pre = torch.addmm(bias, x, weight.T)
    values, indices = (pre if signed else pre.relu_()).topk(min(k, len(weight)), dim=-1, sorted=False)
    return values, indices


def batchtopk(x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], k: int) -> Codes:
    """The n·k largest of ReLU(pre) over the batch, as wide as the busiest token.

    The smallest positive value is the batch's threshold, from which an inference threshold is learned.
    """
    pre = torch.addmm(bias, x, weight.T).relu_().flatten()
    values, places = pre.topk(min(len(x) * k, len(pre)), sorted=False)
    return padded(values, places // len(weight), places % len(weight), len(x))


def groupmax(x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], k: int) -> Codes:
    """The largest of ReLU(pre) of each of k ≤ M contiguous groups of latents, equal in size up to one."""
    members = group_members(len(weight), k, x.device)
    values, which = torch.addmm(bias, x, weight.T).relu_()[:, members].max(dim=-1)
    return values, members.expand(len(x), -1, -1).gather(2, which[:, :, None]).squeeze(2)


def above(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"], threshold: Threshold
) -> Codes:
    """Every positive pre-activation over the threshold, as wide as the busiest token."""
    pre = torch.addmm(bias, x, weight.T)
    fires = (pre > threshold) & (pre > 0)
    tokens, latents = fires.nonzero(as_tuple=True)
    return padded(pre[fires], tokens, latents, len(x))


@torch.no_grad()
def sampled(x: Float[Tensor, "n d"], weight: Float[Tensor, "M d"], bias: Float[Tensor, "M"]) -> Float[Tensor, "some M"]:
    """All pre-activations of 64 tokens spread over the batch."""
    return torch.addmm(bias, x[:: max(1, len(x) // 64)], weight.T)


def many_fire(sample: Float[Tensor, "some M"], threshold: Threshold = 0.0) -> bool:
    """Whether so many latents fire that a plain product is faster than looking for them."""
    return bool((sample > threshold).float().mean() > _MANY)


def group_members(n_latents: int, k: int, device: torch.device) -> Int64[Tensor, "k size"]:
    """The latents of each group; the last one is repeated where a group is smaller than the largest."""
    bounds = torch.arange(k + 1, device=device) * n_latents // k
    size = int(bounds.diff().max())
    return (bounds[:-1, None] + torch.arange(size, device=device)).minimum(bounds[1:, None] - 1)


def padded(values: Float[Tensor, "c"], tokens: Int64[Tensor, "c"], latents: Int64[Tensor, "c"], n: int) -> Codes:
    """Codes from a list of firings, in rows of one width; the rest is zero."""
    fires = values > 0
    values, tokens, latents = values[fires], tokens[fires], latents[fires]
    order = tokens.argsort(stable=True)
    values, tokens, latents = values[order], tokens[order], latents[order]
    counts = tokens.bincount(minlength=n)
    columns = torch.arange(len(tokens), device=tokens.device) - (counts.cumsum(0) - counts)[tokens]
    width = max(int(counts.max()), 1) if n else 1
    out = values.new_zeros(n, width), latents.new_zeros(n, width)
    out[0][tokens, columns], out[1][tokens, columns] = values, latents
    return out


def weighted_rows(
    values: Float[Tensor, "n k"], indices: Int64[Tensor, "n k"], weight: Float[Tensor, "M d"]
) -> Float[Tensor, "n d"]:
    """Σ_j values_j · weight[indices_j]"""
    return F.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")


def row_products(
    rows: Float[Tensor, "n d"], indices: Int64[Tensor, "n k"], weight: Float[Tensor, "M d"]
) -> Float[Tensor, "n k"]:
    """The scalar product of each token's row with the weights of its latents."""
    n, k = indices.shape
    offsets = torch.arange(0, n * k, k, device=indices.device)
    bag = torch.arange(n, device=indices.device).repeat_interleave(k)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows, weight, indices.flatten(), offsets, bag, 0, -1
    )
    return flat.view(n, k)


def transposed_product(
    values: Float[Tensor, "n k"], indices: Int64[Tensor, "n k"], rows: Float[Tensor, "n d"], n_latents: int
) -> Float[Tensor, "M d"]:
    """Aᵀ · rows: for each latent, a bag of the tokens on which it is active."""
    k = indices.shape[1]
    latents, order = indices.flatten().sort(stable=True)
    start = latents.bincount(minlength=n_latents).cumsum(0).roll(1)
    start[0] = 0
    return F.embedding_bag(order // k, rows, start, per_sample_weights=values.flatten()[order], mode="sum")


def decode_gradients(
    values: Float[Tensor, "n k"],
    indices: Int64[Tensor, "n k"],
    weight: Float[Tensor, "M d"],
    grad: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "M d"]]:
    """Gradients of weighted_rows for values and weight, from that of its output; none for a value of zero."""
    of_values = row_products(grad, indices, weight) * (values != 0)
    return of_values, transposed_product(values, indices, grad, len(weight))


def add_co_firings_(
    together: Int32[Tensor, "a b"],
    start: Int64[Tensor, "a_plus_1"],
    tokens: Int32[Tensor, "firings"],
    token_start: Int64[Tensor, "n_plus_1"],
    others: Int32[Tensor, "firings_of_others"],
) -> None:
    """Counts, of each latent and each other one, the tokens on which both fire: latent a owns
    tokens[start[a] : start[a + 1]], on token t fire others[token_start[t] : token_start[t + 1]]."""
    n_a, n_b, n = *together.shape, len(token_start) - 1
    fires, on = (
        csr_array((np.ones(len(indices), dtype=np.int32), indices.numpy(), indptr.numpy()), shape=shape)
        for indptr, indices, shape in ((start, tokens, (n_a, n)), (token_start, others, (n, n_b)))
    )
    together += torch.from_numpy((fires @ on).toarray())


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
    n = len(start) - 1
    latent = torch.arange(n).repeat_interleave(start.diff())
    types, places, window, document, half = where.long()[at].T
    bins = (torch.frexp(value).exponent - 1 + n_bins // 2).clamp(0, n_bins - 1)
    windows = _first_times(latent, window, (window >= 0).nonzero()[:, 0])
    documents = _first_times(latent, document, windows)
    pairs, counts = (latent * n_types + types).unique(return_counts=True)
    return FiringCounts(
        torch.zeros(n, dtype=torch.float64).index_add_(0, latent, value.double()),
        _table(latent, bins, n, n_bins),
        _table(latent, places, n, n_places),
        _table(latent[windows], half[windows], n, 2),
        _table(latent[documents], half[documents], n, 2),
        torch.searchsorted(pairs, torch.arange(n + 1) * n_types),
        (pairs % n_types).int(),
        counts.int(),
    )


def _first_times(
    latent: Int64[Tensor, "n"], other: Int64[Tensor, "n"], among: Int64[Tensor, "some"]
) -> Int64[Tensor, "fewer"]:
    """Where, among some firings, a latent has another window or document than at the one before."""
    new = torch.ones(len(among), dtype=torch.bool)
    new[1:] = (latent[among].diff() != 0) | (other[among].diff() != 0)
    return among[new]


def _table(
    latent: Int64[Tensor, "n"], column: Int[Tensor, "n"], n: int, n_columns: int
) -> Int64[Tensor, "latents columns"]:
    return (latent * n_columns + column).bincount(minlength=n * n_columns).view(n, n_columns)


def unit_rows_(weight: Float[Tensor, "M d"]) -> None:
    """Brings every row to unit norm, in place."""
    weight.div_(weight.norm(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny))


def signum_(grad: Rows, z: Rows, x: Rows, y: Rows, *, lr: float, share: float, beta: float, unit: bool) -> None:
    """z ← z − lr sign(grad), x ← x + share (z − x), y ← z + beta (x − z); rows of z and x of unit norm where `unit`."""
    z.add_(grad.sign(), alpha=-lr)
    x.lerp_(z, share)
    if unit:
        unit_rows_(z)
        unit_rows_(x)
    torch.lerp(z, x, beta, out=y)
