"""What is counted of every latent, shard by shard, so that more text only adds to it.

    counts_00000.safetensors …    beside the shards, named for what they were counted on

Everything here adds up (or is a maximum) over shards, since a shard holds whole documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import csr_array, vstack

from outcrop.kernels import count_firings
from outcrop.latents.cache import LatentCache
from outcrop.latents.shards import Shard, content_hash
from outcrop.latents.windows import Grid
from outcrop.progress import Progress, silent
from outcrop.run import write_atomically

N_BINS = 32  # of activations: bin i holds those from 2^(i−16) to below 2^(i−15), the outer ones all beyond
N_PLACES = 16  # of positions within a context: place i holds those from 2^i to below 2^(i+1)
_VERSION = 1  # of the rules by which is counted
_ENTRIES = 8_000_000  # activations read at once


@dataclass(frozen=True)
class Counts:
    """One row per latent."""

    n_fired: Int64[ndarray, "latents"]
    total: Float64[ndarray, "latents"]  # of the activations
    maximum: Float32[ndarray, "latents"]  # 0 where it never fired
    histogram: Int64[ndarray, "latents 32"]  # firings by activation
    places: Int64[ndarray, "latents 16"]  # firings by position within the context
    n_windows: Int64[ndarray, "latents 2"]  # grid windows of explain and of score documents in which it fires
    n_documents: Int64[ndarray, "latents 2"]  # that hold these windows
    tokens: csr_array  # [latents types], firings by token type


def count(cache: LatentCache, grid: Grid, is_score: Bool[ndarray, "documents"], progress: Progress = silent) -> Counts:
    """Over the whole cache. What was counted before is read; what is new is counted and kept beside its shard."""
    n_types = int(cache.corpus.tokens.max()) + 1
    counted = None
    with progress(f"counting {cache.key}", len(cache.shards), "shards") as advance:
        for shard in cache.shards:
            part = _counted(shard, grid, is_score, n_types)
            counted = part if counted is None else _sum(counted, part)
            advance(1)
    assert counted is not None, "a cache has a shard"
    return counted


def bin_floor(i: int) -> float:
    """The least activation of bin i."""
    return 2.0 ** (i - N_BINS // 2)


def place(offset: Int[ndarray, "n"]) -> Int[ndarray, "n"]:
    """Which place a position within the context belongs to; position 0 stands with position 1."""
    return np.clip(np.frexp(offset.astype(np.float32))[1] - 1, 0, N_PLACES - 1)


def _counted(shard: Shard, grid: Grid, is_score: Bool[ndarray, "documents"], n_types: int) -> Counts:
    path = shard.path.with_name(shard.path.name.replace("shard", "counts"))
    identity = _identity(shard, grid, is_score)
    known = _load(path, identity, n_types)
    if known is None:
        known = _count_shard(shard, grid, is_score, n_types)
        tensors = _tensors(known)
        write_atomically(path, save(tensors, {"counted": f"{identity} {content_hash(tensors)}"}))
    return known


def _identity(shard: Shard, grid: Grid, is_score: Bool[ndarray, "documents"]) -> str:
    """Of all that a shard's counts depend on."""
    digest = hashlib.sha256(f"{_VERSION} {shard.whole} {shard.made.text}".encode())
    tokens = slice(shard.start, shard.stop)
    digest.update(np.ascontiguousarray(grid.row_of[tokens] >= 0).data)
    digest.update(str(grid.positions.shape[1]).encode())
    digest.update(np.ascontiguousarray(is_score[np.unique(grid.corpus.document_of[tokens])]).data)
    return digest.hexdigest()


def _count_shard(shard: Shard, grid: Grid, is_score: Bool[ndarray, "documents"], n_types: int) -> Counts:
    where = torch.from_numpy(_where(shard, grid, is_score))
    parts = []
    for first, stop in chunks(shard.n_fired, _ENTRIES):
        start, at, value = map(torch.from_numpy, (*shard.fires(first, stop), shard.values(first, stop)))
        counted = count_firings(start, at, value, where, n_types=n_types, n_bins=N_BINS, n_places=N_PLACES)
        total, histogram, places, n_windows, n_documents, indptr, types, counts = (each.numpy() for each in counted)
        tokens = csr_array((counts, types, indptr.astype(np.int32)), shape=(stop - first, n_types))
        n_fired, maximum = shard.n_fired[first:stop], shard.scale[first:stop]
        parts.append(Counts(n_fired, total, maximum, histogram, places, n_windows, n_documents, tokens))
    return Counts(**{f.name: _behind([getattr(part, f.name) for part in parts]) for f in fields(Counts)})


def _where(shard: Shard, grid: Grid, is_score: Bool[ndarray, "documents"]) -> Int32[ndarray, "positions 5"]:
    """What `count_firings` is to know of each position of the shard."""
    tokens, corpus = slice(shard.start, shard.stop), grid.corpus
    document = corpus.document_of[tokens]
    columns = corpus.tokens[tokens], place(corpus.offset_of[tokens]), grid.row_of[tokens], document, is_score[document]
    return np.stack(columns, axis=1, dtype=np.int32, casting="unsafe")


def chunks(sizes: Int[ndarray, "latents"], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of latents with `most` entries together at the most, but at least one latent each."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, stop
        first = stop


def _behind(parts: Sequence[ndarray] | Sequence[csr_array]) -> ndarray | csr_array:
    return vstack(parts, format="csr") if isinstance(parts[0], csr_array) else np.concatenate(parts)


def _sum(a: Counts, b: Counts) -> Counts:
    summed = {f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(Counts) if f.name != "maximum"}
    return Counts(**summed, maximum=np.maximum(a.maximum, b.maximum))


def _tensors(counts: Counts) -> dict[str, ndarray]:
    own = {f.name: getattr(counts, f.name) for f in fields(Counts) if f.name != "tokens"}
    tokens = counts.tokens
    return {**own, "indptr": tokens.indptr, "type": tokens.indices, "n": tokens.data}


def _load(path: Path, identity: str, n_types: int) -> Counts | None:
    """What was counted, if it was on the same shard, grid and split; a damaged file is counted anew."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            counted = file.metadata().get("counted")
    except SafetensorError:
        return None
    if counted != f"{identity} {content_hash(tensors)}":
        return None
    indptr, types, n = (tensors.pop(name) for name in ("indptr", "type", "n"))
    return Counts(**tensors, tokens=csr_array((n, types, indptr), shape=(len(indptr) - 1, n_types)))
