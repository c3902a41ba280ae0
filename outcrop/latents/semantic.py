"""Windows alike in meaning: sentence embeddings of the whole grid, and the nearest of each window.

The embeddings lie in a directory of their own, one per grid and embedder, complete or absent:

    part_00000.npy …  float16 [32768 d]  unit rows in the grid's order; the last part is shorter
    lists.faiss       for approximate search only: the same rows, sorted into inverted lists
    index.json        what they were made of, the files' sizes, the recall

Parts are written one by one, so that a killed call goes on where it was, and are read as memory
maps. Search is exact up to a stated number of windows: the cosine e_i · e_j with every row.
Above it, the rows are sorted into L = 4 √windows lists by spherical k-means, and a window is
compared with the rows of the L/8 nearest lists only. What is lost by that is measured when the
lists are made, and kept as `recall`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Int64
from numpy import ndarray
from torch import Tensor

from outcrop.errors import ConfigError, CorruptError, shortened
from outcrop.latents.negatives import StratumRows
from outcrop.latents.windows import Grid
from outcrop.model.embed import Embedder
from outcrop.progress import Progress, silent
from outcrop.run import write_atomically
from outcrop.types import Vocabulary

_VERSION = 1
_LISTS, _INDEX = "lists.faiss", "index.json"
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


def semantic_rows(
    index: WindowIndex, anchors: Int64[ndarray, "a"], fires: Bool[ndarray, "windows"], n_nearest: int = 50
) -> StratumRows:
    """The rows among the nearest of any anchor, itself a row, in which the latent does not fire."""
    found, cosine = index.nearest(anchors, n_nearest)
    row, distance = found.ravel(), 1 - cosine.ravel()
    source = np.repeat(anchors, found.shape[1])
    nearest_first = np.lexsort((source, distance))
    order = nearest_first[~fires[row[nearest_first]]]
    rows, first = np.unique(row[order], return_index=True)
    return StratumRows("semantic", rows, source[order][first], distance[order][first])


def build_index(
    grid: Grid,
    vocabulary: Vocabulary,
    embedder: Embedder,
    directory: Path,
    progress: Progress = silent,
    *,
    exact_windows: int = 1_000_000,
    part_windows: int = 32_768,
) -> WindowIndex:
    """The index of a grid in its own folder of `directory`, made if it is not there.

    Search is approximate in a grid of more than `exact_windows`. A killed call loses one part's work.
    """
    made_of = _made_of(grid, vocabulary, embedder.identity)
    path = directory / _name(made_of)
    if not path.exists():
        unfinished = directory / f".{path.name}.unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        _embed(grid, vocabulary, embedder, unfinished, part_windows, progress)
        _describe(unfinished, made_of, approximate=grid.n_windows > exact_windows)
        unfinished.rename(path)
    return _open(path, made_of)


def _made_of(grid: Grid, vocabulary: Vocabulary, embedder: str) -> dict[str, Any]:
    """Everything that the embeddings depend on."""
    digest = hashlib.sha256(grid.corpus.hash.encode())
    digest.update(np.ascontiguousarray(grid.positions).data)
    digest.update(np.array([len(piece) for piece in vocabulary.pieces]).data)
    digest.update(b"".join(vocabulary.pieces))
    windows, window_tokens = grid.positions.shape
    return {
        "version": _VERSION,
        "grid": digest.hexdigest()[:16],
        "windows": windows,
        "window_tokens": window_tokens,
        "embedder": embedder,
    }


def _name(made_of: dict[str, Any]) -> str:
    return f"{made_of['grid']}-{made_of['embedder']}"


def _embed(
    grid: Grid, vocabulary: Vocabulary, embedder: Embedder, directory: Path, part_windows: int, progress: Progress
) -> None:
    """Write every part that is not there."""
    starts = range(0, grid.n_windows, part_windows)
    parts = {directory / f"part_{i:05d}.npy": grid.tokens[a : a + part_windows] for i, a in enumerate(starts)}
    done = sum(len(windows) for path, windows in parts.items() if path.exists())
    with progress("embedding windows", grid.n_windows, "windows", done=done) as advance:
        for path, windows in parts.items():
            if path.exists():
                continue
            batches: list[ndarray] = []
            for batch in embedder.batches([vocabulary.text(tokens) for tokens in windows]):
                batches.append(batch.astype(np.float16))
                advance(len(batch))
            file = io.BytesIO()
            np.save(file, np.concatenate(batches))
            write_atomically(path, file.getvalue())


def _describe(directory: Path, made_of: dict[str, Any], *, approximate: bool) -> None:
    """Sort the rows into lists if search is to be approximate, and write down what is there."""
    paths = sorted(directory.glob("part_*.npy"))
    embeddings = _embeddings(directory, [path.name for path in paths], made_of["windows"])
    recall = 1.0
    if approximate:
        lists = _inverted_lists(embeddings)
        _faiss().write_index(lists, str(directory / _LISTS))
        recall = _recall(WindowIndex(embeddings), WindowIndex(embeddings, lists))
        paths.append(directory / _LISTS)
    sizes = {path.name: path.stat().st_size for path in paths}
    index = {"made_of": made_of, "approximate": approximate, "recall": recall, "files": sizes}
    write_atomically(directory / _INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _open(path: Path, made_of: dict[str, Any]) -> WindowIndex:
    index = _description(path, made_of)
    embeddings = _embeddings(path, [name for name in index["files"] if name != _LISTS], made_of["windows"])
    if not index["approximate"]:
        return WindowIndex(embeddings)
    faiss = _faiss()
    try:
        lists = faiss.read_index(str(path / _LISTS), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        reason = shortened(str(error), 200)
        raise CorruptError(f"{path / _LISTS} is altered ({reason}); remove {path} and embed again") from error
    return WindowIndex(embeddings, lists, index["recall"])


def _description(path: Path, made_of: dict[str, Any]) -> dict[str, Any]:
    """What index.json says, if it is of these windows and every file has the size that it should."""
    try:
        index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
        foreign = index["made_of"] != made_of
        altered = [name for name, size in index["files"].items() if (path / name).stat().st_size != size]
        index["approximate"], index["recall"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is truncated or altered ({error}); remove it and embed again") from error
    if foreign:
        raise CorruptError(f"{path} was made of other windows or by another embedder; remove it and embed again")
    if altered:
        raise CorruptError(f"{path / altered[0]} is truncated or altered; remove {path} and embed again")
    return index


def _embeddings(directory: Path, names: Sequence[str], n_windows: int) -> Embeddings:
    """The parts as memory maps."""
    try:
        # Copy on write: torch warns of arrays that it must not write to.
        parts = [np.asarray(np.load(directory / name, mmap_mode="c")) for name in names]
    except (OSError, ValueError, EOFError) as error:
        raise CorruptError(f"{directory} holds a truncated part ({error}); remove it and embed again") from error
    n_rows, kinds = sum(map(len, parts)), {(part.dtype, *part.shape[1:]) for part in parts}
    if n_rows != n_windows or len(kinds) != 1:
        raise CorruptError(
            f"{directory} holds {n_rows:,} embeddings, expected {n_windows:,} of one kind; remove it and embed again"
        )
    return Embeddings(parts)


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


def _inverted_lists(embeddings: Embeddings) -> Any:
    """faiss' inverted lists, their centres by seeded k-means over a sample."""
    faiss = _faiss()
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


def _recall(exact: WindowIndex, approximate: WindowIndex) -> float:
    """Recall@50 on a sample of windows."""
    rows = _sample(exact.embeddings, _RECALL_WINDOWS)
    pairs = zip(exact.nearest(rows, _RECALL_AT)[0], approximate.nearest(rows, _RECALL_AT)[0], strict=True)
    return float(np.mean([np.isin(true, found).mean() for true, found in pairs]))


def _sample(embeddings: Embeddings, n: int) -> Int64[ndarray, "_"]:
    generator = np.random.default_rng(_SEED)
    return np.sort(generator.choice(len(embeddings), min(n, len(embeddings)), replace=False))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "approximate search over windows needs faiss, which is not installed: pip install 'outcrop[semantic]'"
        ) from error
    return faiss
