"""One shard of a latent cache: a range of whole documents, for one coder.

A safetensors file, sorted by latent, then position:

    indptr    int64   [L·M + 1]   latent i owns the entries indptr[i] : indptr[i + 1]
    position  uint32  [nnz]       relative to the shard's first token
    value     float16 [nnz]       relative to `scale`, in (0, 1]
    scale     float32 [L·M]       the latent's largest activation in the shard
    excluded  uint32  [n]         eligible by their place in the text, but sinks by their norm

Metadata name the language model, the text and the coder by hash, so that a foreign shard is never taken for ours, and
all of it with the tensors by another, so that `verify` finds an altered byte. A shard is written under a temporary
name and renamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import coo_array

from outcrop.errors import CorruptError
from outcrop.model.corpus import Corpus
from outcrop.run import write_atomically

_NAMES = ("indptr", "position", "value", "scale", "excluded")
_SMALLEST = np.float16(2**-24)  # the smallest positive float16


@dataclass(frozen=True)
class ShardRange:
    """One shard's place in the corpus."""

    index: int
    contexts: range
    start: int  # first position
    stop: int

    @property
    def name(self) -> str:
        return f"shard_{self.index:05d}.safetensors"


@dataclass(frozen=True)
class Made:
    """What a shard was made of."""

    model: str  # identity of the language model
    text: str  # hash of its part of the corpus
    coder: str  # hash of the coder
    start: int
    stop: int


def shard_ranges(corpus: Corpus, shard_tokens: int) -> list[ShardRange]:
    """Whole documents, `shard_tokens` tokens or just above, the last shard shorter."""
    ends = np.flatnonzero(np.diff(corpus.context_document, append=-1)) + 1  # the contexts at which a document ends
    ranges: list[ShardRange] = []
    first = 0
    for end in ends.tolist():
        start, stop = int(corpus.context_start[first]), int(corpus.context_start[end])
        if stop - start >= shard_tokens or end == corpus.n_contexts:
            ranges.append(ShardRange(len(ranges), range(first, end), start, stop))
            first = end
    return ranges


class Shard:
    """One file, read slice by slice. CorruptError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
            metadata = json.loads(self._file.metadata()["outcrop"])
            self.made, self.whole = Made(**metadata["made"]), str(metadata["whole"])
            self._indptr = self._file.get_slice("indptr")
            self.excluded: Int64[ndarray, "n"] = self._file.get_tensor("excluded").astype(np.int64) + self.made.start
        except (KeyError, TypeError) as error:
            raise CorruptError(
                f"{path} is altered, or another version of outcrop wrote it ({error}); remove it and cache again"
            ) from error
        except (SafetensorError, ValueError, OSError) as error:
            raise CorruptError(f"{path} is truncated or altered ({error}); remove it and cache again") from error

    @property
    def start(self) -> int:
        return self.made.start

    @property
    def stop(self) -> int:
        return self.made.stop

    @property
    def scale(self) -> Float32[ndarray, "latents"]:
        """Each latent's largest activation; 0 where it does not fire."""
        return self._file.get_tensor("scale")

    @property
    def n_fired(self) -> Int64[ndarray, "latents"]:
        return np.diff(self._indptr[:])

    def read(self, first: int, stop: int) -> tuple[Int32[ndarray, "x"], Int64[ndarray, "x"], Float32[ndarray, "x"]]:
        """Latent, position in the corpus and activation of the entries of some latents."""
        start, position = self.fires(first, stop)
        latent = np.repeat(np.arange(first, stop, dtype=np.int32), np.diff(start))
        return latent, position.astype(np.int64) + self.start, self.values(first, stop)

    def fires(self, first: int, stop: int) -> tuple[Int64[ndarray, "latents_plus_1"], Int32[ndarray, "x"]]:
        """Where some latents fire, as positions within the shard behind one another, and where each one's begin."""
        indptr = self._indptr[first : stop + 1]
        return indptr - indptr[0], self._entries("position", indptr, np.uint32).view(np.int32)

    def values(self, first: int, stop: int) -> Float32[ndarray, "x"]:
        """The activations there."""
        indptr = self._indptr[first : stop + 1]
        value = self._entries("value", indptr, np.float16).astype(np.float32)
        value *= np.repeat(self._file.get_slice("scale")[first:stop], np.diff(indptr))
        return value

    def _entries(self, name: str, indptr: Int64[ndarray, "latents_plus_1"], dtype: type[np.generic]) -> ndarray:
        """Of one tensor, those of some latents; safetensors cannot read none."""
        begin, end = int(indptr[0]), int(indptr[-1])
        return self._file.get_slice(name)[begin:end] if begin < end else np.empty(0, dtype)

    def verify(self) -> None:
        """Read everything; CorruptError unless it is what was written."""
        try:
            tensors = {name: self._file.get_tensor(name) for name in _NAMES}
        except (SafetensorError, ValueError, TypeError) as error:
            raise CorruptError(f"{self.path} is truncated or altered ({error}); remove it and cache again") from error
        if _whole_hash(tensors, self.made) != self.whole:
            raise CorruptError(f"{self.path} is not as it was written; remove it and cache again")


def write_shard(path: Path, tensors: Mapping[str, ndarray], made: Made) -> None:
    """One entry of metadata, because safetensors writes several in no fixed order."""
    metadata = {"made": made.__dict__, "whole": _whole_hash(tensors, made)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(dict(tensors), {"outcrop": json.dumps(metadata)}))


def _whole_hash(tensors: Mapping[str, ndarray], made: Made) -> str:
    return hashlib.sha256(f"{json.dumps(made.__dict__)}{content_hash(tensors)}".encode()).hexdigest()


def content_hash(tensors: Mapping[str, ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def sorted_by_latent(
    position: Int32[ndarray, "nnz"],
    latent: Int32[ndarray, "nnz"],
    value: Float32[ndarray, "nnz"],
    shape: tuple[int, int],
    excluded: Int64[ndarray, "n"],
) -> dict[str, ndarray]:
    """A shard's tensors from its entries in any order, in linear time; `shape` is (tokens, latents)."""
    entries = coo_array((value, (position, latent)), shape=shape)
    entries.has_canonical_format = True  # a latent fires on a token once
    by_latent = entries.tocsr().tocsc()  # which passes over the tokens in their order, so that positions ascend
    indptr, share = by_latent.indptr.astype(np.int64), by_latent.data
    n_entries = np.diff(indptr)
    fired = n_entries > 0
    scale = np.zeros(len(n_entries), dtype=np.float32)
    if fired.any():
        scale[fired] = np.maximum.reduceat(share, indptr[:-1][fired])
    share /= np.repeat(scale, n_entries)
    rounded = np.maximum(share.astype(np.float16), _SMALLEST)
    assert np.isfinite(rounded).all(), "a stored activation is finite, and by its floor never zero"
    return {
        "indptr": indptr,
        "position": by_latent.indices.astype(np.uint32),
        "value": rounded,
        "scale": scale,
        "excluded": excluded.astype(np.uint32),
    }


def taken(parts: list[ndarray]) -> ndarray:
    """Behind one another; the parts are given up, so that both are not held for long."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def text_hash(corpus: Corpus, contexts: range) -> str:
    """Hash of some contexts of the corpus, which stays when more text is put behind them."""
    tokens = slice(int(corpus.context_start[contexts.start]), int(corpus.context_start[contexts.stop]))
    digest = hashlib.sha256()
    for array in (
        corpus.tokens[tokens],
        corpus.context_start[contexts.start : contexts.stop + 1],
        corpus.context_document[contexts.start : contexts.stop],
        corpus.eligible[tokens],
    ):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
