"""Which windows are drawn of those that could be.

quantiles    as many from each of Q parts of equal size, by peak
top          the strongest
random       any, with equal chances
mix          half of them the strongest, the others from the quantiles
importance   without replacement, with chances that grow with the peak
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from outcrop.config import Sampler


def quantiles(n: int, n_quantiles: int) -> Int64[ndarray, "n"]:
    """The quantile, from 1, of each of n windows that are sorted by peak; their sizes differ by at most one."""
    return np.repeat(np.arange(1, n_quantiles + 1), _sizes(n, n_quantiles))


def _sizes(n: int, n_quantiles: int) -> list[int]:
    """The larger ones first."""
    least, n_larger = divmod(n, n_quantiles)
    return [least + 1] * n_larger + [least] * (n_quantiles - n_larger)


def sample(
    sampler: Sampler, peaks: Float32[ndarray, "windows"], n: int, n_quantiles: int, generator: np.random.Generator
) -> Int64[ndarray, "n"]:
    """n of the windows, whose peaks rise; the weakest first."""
    n = min(n, len(peaks))
    match sampler:
        case "quantiles":
            drawn = _from_each(len(peaks), n, n_quantiles, generator)
        case "top":
            drawn = np.arange(len(peaks) - n, len(peaks))
        case "random":
            drawn = generator.choice(len(peaks), size=n, replace=False)
        case "mix":
            n_top = n // 2
            n_weaker = len(peaks) - n_top
            weaker = _from_each(n_weaker, n - n_top, n_quantiles, generator)
            drawn = np.concatenate([weaker, np.arange(n_weaker, len(peaks))])
        case "importance":
            drawn = generator.choice(len(peaks), size=n, replace=False, p=peaks / peaks.sum(dtype=np.float64))
    return np.sort(drawn)


def _from_each(n_windows: int, n: int, n_quantiles: int, generator: np.random.Generator) -> Int64[ndarray, "n"]:
    """The quantiles share n as equally as their sizes allow."""
    sizes = _sizes(n_windows, n_quantiles)
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    quotas = share_out(n, sizes)
    each = zip(starts, sizes, quotas, strict=True)
    return np.concatenate([start + generator.choice(size, size=q, replace=False) for start, size, q in each])


def in_turn(source: Int64[ndarray, "windows"], n: int, generator: np.random.Generator) -> Int64[ndarray, "n"]:
    """n windows, by turns one of each source, in a random order, as long as it has any; within a source at random."""
    have = np.bincount(source)
    sources = generator.permutation(np.flatnonzero(have))
    quotas = share_out(n, have[sources].tolist())
    drawn = [np.empty(0, dtype=np.int64)]
    for one, quota in zip(sources.tolist(), quotas, strict=True):
        if quota:
            drawn.append(generator.choice(np.flatnonzero(source == one), quota, replace=False))
    turn = np.concatenate([np.arange(len(of_source)) for of_source in drawn])
    return np.concatenate(drawn)[np.argsort(turn, kind="stable")]


def share_out(total: int, available: list[int]) -> list[int]:
    """Deal `total` one by one to the groups in turn, to none more than it has."""
    dealt = [0] * len(available)
    while total and any(have > got for have, got in zip(available, dealt, strict=True)):
        for i, have in enumerate(available):
            if total and dealt[i] < have:
                dealt[i] += 1
                total -= 1
    return dealt
