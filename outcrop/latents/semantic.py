"""Windows alike in meaning: sentence embeddings of the whole grid, and the nearest of each window.

The embeddings lie in a directory of their own, one per grid and embedder, complete or absent:

    part_00000.npy …  float16 [32768 d]  unit rows in the grid's order; the last part is shorter
    lists.faiss       for approximate search only: the same rows, sorted into inverted lists
    index.json        what they and each part were made of, the files' sizes, the recall

Parts are written one by one, so that a killed call goes on where it was, and are read as memory maps. A grid that has
grown, or begins as another does, takes the parts that are there and embeds the rest. Search (`nearest`) is exact up to
a stated number of windows; what is lost by an approximate one is measured when lists are made, and kept as `recall`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray

from outcrop.errors import CorruptError, shortened
from outcrop.latents.nearest import Embeddings, WindowIndex, faiss_module, inverted_lists, recall_of
from outcrop.latents.negatives import StratumRows
from outcrop.latents.windows import Grid
from outcrop.model.embed import Embedder
from outcrop.progress import Progress, silent
from outcrop.run import write_atomically
from outcrop.types import Vocabulary

_VERSION = 2
_LISTS, _INDEX = "lists.faiss", "index.json"


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
        if grid.n_windows > exact_windows:
            faiss_module()  # that it is missing is told before the work
        parts = _parts(grid, vocabulary, embedder.identity, part_windows)
        _embed(parts, vocabulary, embedder, unfinished, progress)
        _describe(unfinished, made_of, list(parts), approximate=grid.n_windows > exact_windows)
        unfinished.rename(path)
    return _open(path, made_of)


def _made_of(grid: Grid, vocabulary: Vocabulary, embedder: str) -> dict[str, Any]:
    """Everything that the embeddings depend on."""
    digest = hashlib.sha256(grid.corpus.hash.encode())
    digest.update(np.ascontiguousarray(grid.positions).data)
    digest.update(_words(vocabulary))
    windows, window_tokens = grid.positions.shape
    return {
        "version": _VERSION,
        "grid": digest.hexdigest()[:16],
        "windows": windows,
        "window_tokens": window_tokens,
        "embedder": embedder,
    }


def _words(vocabulary: Vocabulary) -> bytes:
    digest = hashlib.sha256(np.array([len(piece) for piece in vocabulary.pieces]).data)
    digest.update(b"".join(vocabulary.pieces))
    return digest.digest()


def _parts(
    grid: Grid, vocabulary: Vocabulary, embedder: str, part_windows: int
) -> dict[str, Int32[ndarray, "windows w"]]:
    """The tokens of each part's windows, under a hash of all that its embeddings depend on."""
    begun, parts = hashlib.sha256(embedder.encode() + _words(vocabulary)), {}
    for start in range(0, grid.n_windows, part_windows):
        windows, digest = np.ascontiguousarray(grid.tokens[start : start + part_windows]), begun.copy()
        digest.update(f"{start} {windows.shape}".encode())
        digest.update(windows.data)
        parts[digest.hexdigest()] = windows
    return parts


def _name(made_of: dict[str, Any]) -> str:
    return f"{made_of['grid']}-{made_of['embedder']}"


def _embed(
    parts: dict[str, Int32[ndarray, "windows w"]],
    vocabulary: Vocabulary,
    embedder: Embedder,
    directory: Path,
    progress: Progress,
) -> None:
    """Write every part that is neither there nor in a complete index beside this one."""
    paths = {directory / f"part_{i:05d}.npy": part for i, part in enumerate(parts)}
    there = _parts_beside(directory)
    for path, part in paths.items():
        if part in there and not path.exists():
            _take(there[part], path)
    missing = {path: parts[part] for path, part in paths.items() if not path.exists()}
    n, n_missing = (sum(map(len, of.values())) for of in (parts, missing))
    with progress("embedding windows", n, "windows", done=n - n_missing) as advance:
        for path, windows in missing.items():
            batches: list[ndarray] = []
            for batch in embedder.batches([vocabulary.text(tokens) for tokens in windows]):
                batches.append(batch.astype(np.float16))
                advance(len(batch))
            file = io.BytesIO()
            np.save(file, np.concatenate(batches))
            write_atomically(path, file.getvalue())


def _take(there: Path, path: Path) -> None:
    """The same file, or a copy where the file system has no links."""
    try:
        path.hardlink_to(there)
    except OSError:
        write_atomically(path, there.read_bytes())


def _parts_beside(directory: Path) -> dict[str, Path]:
    """Those of complete indices in the same folder; one that cannot be read is refused once it is asked for itself."""
    found = dict[str, Path]()
    for path in directory.parent.glob(f"*/{_INDEX}"):
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            parts = {part: path.with_name(f"part_{i:05d}.npy") for i, part in enumerate(index["parts"])}
            found |= {part: at for part, at in parts.items() if at.stat().st_size == index["files"][at.name]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _describe(directory: Path, made_of: dict[str, Any], parts: Sequence[str], *, approximate: bool) -> None:
    """Sort the rows into lists if search is to be approximate, and write down what is there."""
    paths = sorted(directory.glob("part_*.npy"))
    embeddings = _embeddings(directory, [path.name for path in paths], made_of["windows"])
    recall = 1.0
    if approximate:
        lists = inverted_lists(embeddings)
        faiss_module().write_index(lists, str(directory / _LISTS))
        recall = recall_of(WindowIndex(embeddings), WindowIndex(embeddings, lists))
        paths.append(directory / _LISTS)
    sizes = {path.name: path.stat().st_size for path in paths}
    index = {"made_of": made_of, "approximate": approximate, "recall": recall, "parts": parts, "files": sizes}
    write_atomically(directory / _INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _open(path: Path, made_of: dict[str, Any]) -> WindowIndex:
    index = _description(path, made_of)
    embeddings = _embeddings(path, [name for name in index["files"] if name != _LISTS], made_of["windows"])
    if not index["approximate"]:
        return WindowIndex(embeddings)
    faiss = faiss_module()
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
