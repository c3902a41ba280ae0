"""The nearest of sentence embeddings: exactly, or approximately by inverted lists (faiss).

Exact search takes the cosine e_i · e_j with every row. For an approximate one the rows are sorted into L = 4 √windows
lists by spherical k-means, and a window is compared with the rows of the L/8 nearest lists only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64
from numpy import ndarray
from torch import Tensor

from outcrop.errors import ConfigError

_BLOCK = 8_192  # rows that are float32 at a time
_ROWS_PER_LIST = 40  # that k-means sees; fewer make poor centres
_RECALL_AT, _RECALL_WINDOWS = 50, 200
_SEED = 0

_Found = tuple[Int64[ndarray, "a n"], Float32[ndarray, "a n"]]  # rows and cosines


class Embeddings:
    """Unit rows in parts on disk; float32 where they are read."""

    def __init__(self, parts: Sequence[Float16[ndarray, "_ d"]]) -> None:
        self._parts = parts
        self._start = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._start[-1])

    @property
    def width(self) -> int:
        return int(self._parts[0].shape[1])

    def __getitem__(self, rows: Int64[ndarray, "a"]) -> Float32[ndarray, "a d"]:
        part = np.searchsorted(self._start, rows, side="right") - 1
        out = np.empty((len(rows), self.width), dtype=np.float32)
        for i in np.unique(part):
            out[part == i] = self._parts[i][rows[part == i] - self._start[i]]
        return out

    def blocks(self) -> Iterator[tuple[int, Float32[Tensor, "_ d"]]]:
        """All rows, some at a time, each time with the number of the first."""
        for start, part in zip(self._start.tolist(), self._parts, strict=False):
            for first in range(0, len(part), _BLOCK):
                yield start + first, torch.from_numpy(part[first : first + _BLOCK]).float()


@dataclass(frozen=True)
class WindowIndex:
    """The embeddings of every row of a grid, to be searched."""

    embeddings: Embeddings
    lists: Any = None  # faiss.IndexIVF, where search is approximate
    recall: float = 1.0  # the share of a window's true nearest 50 that are found

    def nearest(self, rows: Int64[ndarray, "a"], n: int) -> tuple[Int64[ndarray, "a n"], Float32[ndarray, "a n"]]:
        """The n rows nearest to each of some rows, itself left out, and their cosines, falling.

        Fewer than n if the grid has no more.
        """
        wanted = min(n + 1, len(self.embeddings))
        if self.lists is None:
            found, cosine = _exact(self.embeddings, rows, wanted)
        else:
            found, cosine = _approximate(self.embeddings, self.lists, rows, wanted)
        # A window's own twin may come before it, and an approximate search may miss the window itself.
        others = np.argsort(found == rows[:, None], axis=1, kind="stable")[:, : wanted - 1]
        return np.take_along_axis(found, others, axis=1), np.take_along_axis(cosine, others, axis=1)


def _exact(embeddings: Embeddings, rows: Int64[ndarray, "a"], n: int) -> _Found:
    """Every row compared; its best n of each block, then the best n of all."""
    query = torch.from_numpy(embeddings[rows])
    found: list[ndarray] = []
    cosine: list[ndarray] = []
    for start, block in embeddings.blocks():
        best = (query @ block.T).topk(min(n, len(block)), dim=1)
        found.append(best.indices.numpy() + start)
        cosine.append(best.values.numpy())
    return _falling(np.concatenate(found, axis=1), np.concatenate(cosine, axis=1), n)


def _approximate(embeddings: Embeddings, lists: Any, rows: Int64[ndarray, "a"], n: int) -> _Found:
    """The rows of the nearest lists compared; every row where these hold fewer than n."""
    cosine, found = lists.search(embeddings[rows], n)
    short = (found < 0).any(axis=1)
    if short.any():
        found[short], cosine[short] = _exact(embeddings, rows[short], n)
    return _falling(found, cosine, n)


def _falling(found: Int64[ndarray, "a c"], cosine: Float32[ndarray, "a c"], n: int) -> _Found:
    """The best n of each line; of equals the lower row first."""
    order = np.lexsort((found, -cosine), axis=1)[:, :n]
    rounded_up = np.take_along_axis(cosine, order, axis=1)  # by float16, past 1 for twins
    return np.take_along_axis(found, order, axis=1), np.minimum(rounded_up, 1)


def inverted_lists(embeddings: Embeddings) -> Any:
    """faiss' inverted lists, their centres by seeded k-means over a sample."""
    faiss = faiss_module()
    n_lists = round(4 * math.sqrt(len(embeddings)))
    lists = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(embeddings.width),
        embeddings.width,
        n_lists,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
        False,  # the rows themselves, not what is left of them beside the centres
    )
    lists.nprobe = max(1, n_lists // 8)
    lists.cp.seed, lists.cp.spherical = _SEED, True
    lists.cp.min_points_per_centroid = 1  # a small sample is not worth a warning
    lists.train(embeddings[_sample(embeddings, n_lists * _ROWS_PER_LIST)])
    for _, block in embeddings.blocks():
        lists.add(block.numpy())
    return lists


def recall_of(exact: WindowIndex, approximate: WindowIndex) -> float:
    """Recall@50 on a sample of windows."""
    rows = _sample(exact.embeddings, _RECALL_WINDOWS)
    pairs = zip(exact.nearest(rows, _RECALL_AT)[0], approximate.nearest(rows, _RECALL_AT)[0], strict=True)
    return float(np.mean([np.isin(true, found).mean() for true, found in pairs]))


def _sample(embeddings: Embeddings, n: int) -> Int64[ndarray, "_"]:
    generator = np.random.default_rng(_SEED)
    return np.sort(generator.choice(len(embeddings), min(n, len(embeddings)), replace=False))


def faiss_module() -> Any:
    """ConfigError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "approximate search over windows needs faiss, which is not installed: pip install 'outcrop[semantic]'"
        ) from error
    return faiss
