"""Coarse products of tokens with an encoder, and how far they can be off.

    score[t m] ≈ x_t · w_m + b_m   in bfloat16, from int8 or bfloat16 factors
    |score - exact| ≤ C/√d · √(‖δx_t‖² ‖w_m‖² + ‖x_t‖² ‖δw_m‖²) + |score| / 256

δ is what a factor lost in rounding. Rounding does not know the other factor, so the error of the
scalar product has a standard deviation of 1/√d of the Cauchy–Schwarz bound: C = 6 of them are
allowed for, or, where d is small, √2 times the root, which is certain. The last term is for the
rounding of the score itself.

A `Problem` is what C is given: the tensors, the scores or the int8 factors to make them from, and
token_error = C/√d · ‖δx‖, token_norm = ‖x‖, latent_error = C/√d · ‖δw‖, latent_norm = ‖w‖.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from outcrop.kernels.build import call
from outcrop.kernels.memory import recycled

_DEVIATIONS = 6.0
_SUMS = 2.0**-20  # relative error allowed for sums in float32
_TILE, _LANES = 12, 32  # as in cpu.c
_CHUNK = 1024  # tokens whose scores torch makes at once


class Problem(ctypes.Structure):
    """As in cpu.c; it keeps its tensors alive."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias")),
        *((name, ctypes.c_void_p) for name in ("token_norm", "token_error", "latent_norm", "latent_error")),
        *((name, ctypes.c_void_p) for name in ("scores", "tokens", "latents")),
        *((name, ctypes.c_void_p) for name in ("token_sum", "token_step", "latent_step", "padded_bias")),
        *((name, ctypes.c_float) for name in ("latent_norm_max", "latent_error_max")),
        *((name, ctypes.c_int64) for name in ("n", "m", "d", "stride")),
    )

    def __init__(self, stride: int, **tensors: Tensor) -> None:
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        largest = {f"{name}_max": float(tensors[name].max()) for name in ("latent_norm", "latent_error")}
        n, (m, d) = len(tensors["x"]), tensors["weight"].shape
        super().__init__(**pointers, **largest, n=n, m=m, d=d, stride=stride)
        self.tensors = tensors


def problems(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Problem]]:
    """Tokens in one piece or several, with our int8 product where the CPU is fastest at that, else with torch's."""
    return (int8_problem if call("has_product") else torch_problems)(x, weight, bias)


def int8_problem(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Problem]]:
    """Each token and each latent in steps of 1/127 of its largest element; C multiplies block by block."""
    balance, stride = _balance(x), _padded(len(weight), _LANES)
    factors = _int8_tokens(x, 1 / balance) | _int8_latents(weight, balance)
    padded_bias = F.pad(bias, (0, stride - len(bias)))
    yield slice(0, len(x)), Problem(stride, x=x, weight=weight, bias=bias, padded_bias=padded_bias, **factors)


def _int8_tokens(x: Tensor, balance: Tensor) -> dict[str, Tensor]:
    n, d = x.shape
    n_padded = _padded(n, _TILE)
    integers, sums = recycled(n_padded, _padded(d, 4), dtype=torch.int8), torch.zeros(n_padded, dtype=torch.int32)
    step, norm, error = torch.zeros(3, n_padded, dtype=torch.float32)
    call("quantise_tokens", x, balance, n, d, integers, step, norm, error, sums)
    factors = {"tokens": integers, "token_step": step, "token_sum": sums}
    return {**factors, "token_norm": norm, "token_error": error * _share(d) + norm * _SUMS}


def _int8_latents(weight: Tensor, balance: Tensor) -> dict[str, Tensor]:
    m, d = weight.shape
    m_padded = _padded(m, _LANES)
    integers = recycled(m_padded, _padded(d, 4), dtype=torch.int8)
    step, norm, error = torch.zeros(3, m_padded, dtype=torch.float32)
    call("quantise_latents", weight, balance, m, d, integers, step, norm, error)
    return {"latents": integers, "latent_step": step, "latent_norm": norm, "latent_error": error * _share(d)}


def torch_problems(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Problem]]:
    """By torch's product of bfloat16 copies, or of float32 ones where the CPU has no bfloat16, chunk by chunk."""
    (n, d), m = x.shape, len(weight)
    dtype = torch.bfloat16 if _has_bfloat16() else torch.float32
    # The bias joins the sum as two elements of each latent, so that it too is added in float32.
    coarse_bias = bias.to(dtype).float()
    tokens, latents = _extended(x, dtype, 1.0, 1.0), _extended(weight, dtype, coarse_bias, bias - coarse_bias)
    token_norm = torch.hypot(torch.linalg.vector_norm(x, dim=1), torch.ones(()))
    latent_norm = torch.hypot(torch.linalg.vector_norm(weight, dim=1), bias)
    error = torch.finfo(dtype).eps / 2 * _share(d) + _SUMS
    of_latents = {"latent_norm": latent_norm, "latent_error": latent_norm * error}
    scores = recycled(min(_CHUNK, n), m, dtype=torch.bfloat16)
    product = scores if dtype == torch.bfloat16 else recycled(min(_CHUNK, n), m, dtype=dtype)
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        size = rows.stop - start
        torch.mm(tokens[rows], latents.T, out=product[:size])
        if product is not scores:
            scores[:size] = product[:size]
        of_tokens = {"token_norm": token_norm[rows], "token_error": token_norm[rows] * error}
        yield rows, Problem(m, x=x[rows], weight=weight, bias=bias, scores=scores, **of_tokens, **of_latents)


def _balance(x: Tensor) -> Tensor:
    """[d]: what latents are multiplied and tokens divided by, so that wide dimensions do not take all steps."""
    spread = torch.linalg.vector_norm(x[:: max(1, len(x) // 256)], dim=0)
    return (spread / spread.max().clamp_min(torch.finfo(spread.dtype).tiny)).clamp_min(1e-4).sqrt()


def _has_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _share(d: int) -> float:
    return min(math.sqrt(2), _DEVIATIONS / math.sqrt(d))


def _extended(rows: Tensor, dtype: torch.dtype, first: Tensor | float, second: Tensor | float) -> Tensor:
    """The rows with two more elements, and zeros up to a width that products are fast at."""
    n, d = rows.shape
    out = recycled(n, _padded(d + 2, 32), dtype=dtype)
    out[:, :d], out[:, d], out[:, d + 1], out[:, d + 2 :] = rows, first, second, 0
    return out


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
