"""The primitives of `reference` for float32 on a CPU, by the compiled `cpu.c`.

A selection goes through the tokens in chunks. For each it makes a coarse product, in int8 or
bfloat16, and lets C find from it the few latents that can be selected, recompute their
pre-activations in float32 and keep the right ones: the result is the reference's, up to the order
of float32 sums.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from outcrop.kernels import reference
from outcrop.kernels.build import call, library
from outcrop.kernels.coarse import Problem, problems
from outcrop.kernels.memory import recycled
from outcrop.kernels.reference import Codes, FiringCounts, Threshold, many_fire, padded, sampled


def available() -> bool:
    return library() is not None


def topk(x: Tensor, weight: Tensor, bias: Tensor, k: int, *, signed: bool = False) -> Codes:
    k = min(k, len(weight))
    values, indices = _codes(len(x), k)
    for rows, problem in problems(_dense(x), _dense(weight), _dense(bias)):
        call("topk", problem, k, int(signed), values[rows], indices[rows])
    return values, indices


def groupmax(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Codes:
    values, indices = _codes(len(x), k)
    for rows, problem in problems(_dense(x), _dense(weight), _dense(bias)):
        call("groupmax", problem, k, values[rows], indices[rows])
    return values, indices


def batchtopk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Codes:
    """By `above`, with a threshold that a sample of tokens says is low enough; lowered until it was."""
    if not len(x) or k >= len(weight):
        return reference.batchtopk(x, weight, bias, k)
    sample = sampled(x, weight, bias)
    enough = 3 * k // 2 * len(sample)
    threshold = float(sample.flatten().topk(min(enough, sample.numel()), sorted=False).values.min().clamp_min(0))
    while True:
        tokens, latents, values = _firings(x, weight, bias, threshold, sample)
        if len(values) >= len(x) * k or threshold == 0:
            break
        threshold = threshold / 2 if threshold > 1e-6 else 0.0
    values, kept = values.topk(min(len(x) * k, len(values)), sorted=False)
    return padded(values, tokens[kept], latents[kept], len(x))


def above(x: Tensor, weight: Tensor, bias: Tensor, threshold: Threshold) -> Codes:
    sample = sampled(x, weight, bias)
    if not len(x) or many_fire(sample, threshold):
        return reference.above(x, weight, bias, threshold)
    tokens, latents, values = _firings(x, weight, bias, threshold, sample)
    return padded(values, tokens, latents, len(x))


def weighted_rows(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    (n, k), d = values.shape, weight.shape[1]
    out = recycled(n, d)
    call("weighted_rows", _dense(values), _dense(indices.long()), _dense(weight), n, k, d, out)
    return out


def row_products(rows: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    (n, k), d = indices.shape, weight.shape[1]
    out = torch.empty(n, k, dtype=torch.float32)
    call("row_products", _dense(rows), _dense(indices.long()), _dense(weight), n, k, d, out)
    return out


def transposed_product(values: Tensor, indices: Tensor, rows: Tensor, n_latents: int) -> Tensor:
    (n, k), d = values.shape, rows.shape[1]
    out = recycled(n_latents, d)
    call("transposed_product", _dense(values), _dense(indices.long()), _dense(rows), n, k, n_latents, d, out)
    return out


def decode_gradients(values: Tensor, indices: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    (n, k), (m, d) = values.shape, weight.shape
    of_values, of_weight = torch.empty(n, k, dtype=torch.float32), recycled(m, d)
    codes = _dense(values), _dense(indices.long())
    call("decode_gradients", *codes, _dense(weight), _dense(grad), n, k, m, d, of_values, of_weight)
    return of_values, of_weight


def add_co_firings_(together: Tensor, start: Tensor, tokens: Tensor, token_start: Tensor, others: Tensor) -> None:
    call("add_co_firings", start, tokens, token_start, others, *together.shape, together)


def count_firings(
    start: Tensor, at: Tensor, value: Tensor, where: Tensor, *, n_types: int, n_bins: int, n_places: int
) -> FiringCounts:
    n = len(start) - 1
    total, indptr = torch.empty(n, dtype=torch.float64), torch.empty(n + 1, dtype=torch.long)
    bins, places, windows, documents = (torch.empty(n, size, dtype=torch.long) for size in (n_bins, n_places, 2, 2))
    types, counts = (torch.empty(len(at), dtype=torch.int32) for _ in range(2))
    tables = total, bins, places, windows, documents, indptr
    call("count_firings", start, at, value, where, n, n_types, n_bins, n_places, *tables, types, counts)
    return FiringCounts(*tables, types[: indptr[-1]].clone(), counts[: indptr[-1]].clone())


def unit_rows_(weight: Tensor) -> None:
    if weight.is_contiguous():
        call("unit_rows", weight, *weight.shape)
    else:
        weight.copy_(F.normalize(weight, dim=1))


def signum_(grad: Tensor, z: Tensor, x: Tensor, y: Tensor, *, lr: float, share: float, beta: float, unit: bool) -> None:
    if all(tensor.is_contiguous() for tensor in (z, x, y)):
        call("signum", _dense(grad), z, x, y, *grad.shape, lr, share, beta, int(unit))
    else:
        reference.signum_(grad, z, x, y, lr=lr, share=share, beta=beta, unit=unit)


def _codes(n: int, width: int) -> Codes:
    return torch.empty(n, width, dtype=torch.float32), torch.empty(n, width, dtype=torch.long)


def _firings(
    x: Tensor, weight: Tensor, bias: Tensor, threshold: Threshold, sample: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, latents and values of all pre-activations over the threshold, by token."""
    thresholds = torch.as_tensor(threshold, dtype=torch.float32).expand(len(weight)).contiguous()
    busiest = (sample > thresholds.clamp_min(0)).sum(dim=1).max()
    width = min(2 * int(busiest) + 16, len(weight))
    found = [
        _firings_of(problem, rows, thresholds, width)
        for rows, problem in problems(_dense(x), _dense(weight), _dense(bias))
    ]
    tokens, latents, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return tokens, latents, values


def _firings_of(problem: Problem, rows: slice, thresholds: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    n = rows.stop - rows.start
    (values, indices), counts = _codes(n, width), torch.empty(n, dtype=torch.long)
    call("above", problem, thresholds, float(thresholds.min()), width, values, indices, counts)
    busiest = int(counts.max())
    if busiest > width:
        return _firings_of(problem, rows, thresholds, busiest)
    fires = values > 0
    return torch.arange(rows.start, rows.stop).repeat_interleave(counts), indices[fires], values[fires]


def _dense(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()
