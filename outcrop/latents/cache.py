"""The latent cache: which latent fired where, and how strongly.

A shard covers a range of contexts of the cache's corpus for one coder and is one safetensors
file, sorted by latent, then position:

    indptr    int64   [L·M + 1]   latent i owns the entries indptr[i] : indptr[i + 1]
    position  uint32  [nnz]       relative to the shard's first token
    value     float16 [nnz]       relative to `scale`, in (0, 1]
    scale     float32 [L·M]       the latent's largest activation in the shard
    excluded  uint32  [n]         eligible by their place in the text, but sinks by their norm

Metadata name the text and the coder by hash, so that a foreign shard is never taken for ours.
A shard is written under a temporary name and renamed: caching resumes at the first missing one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import coo_array

from outcrop.coders.placed import PlacedCoder
from outcrop.config import CacheConfig
from outcrop.errors import CoderError, CorruptError
from outcrop.model.activations import activations
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance, Progress, silent
from outcrop.run import write_atomically
from outcrop.types import CoderKey, SparseLatents, within_norm

_SMALLEST = np.float16(2**-24)  # the smallest positive float16


@dataclass(frozen=True)
class ShardRange:
    """One shard's place in the corpus."""

    index: int
    contexts: range
    start: int  # first position
    stop: int


@dataclass(frozen=True)
class Firings:
    """Where one latent fires: positions ascending, activations > 0."""

    position: Int64[ndarray, "nnz"]
    value: Float32[ndarray, "nnz"]


class LatentCache:
    """A latent-sorted view over the shards of one coder. `cache[latent]` reads that latent's bytes only."""

    def __init__(self, directory: Path, key: CoderKey, corpus: Corpus, n_layers: int, latents_per_layer: int) -> None:
        self.key, self.corpus = key, corpus
        self.n_layers, self.latents_per_layer = n_layers, latents_per_layer
        self._shards = [_Shard(path) for path in sorted(directory.glob("shard_*.safetensors"))]
        self._check(directory)

    @property
    def n_latents(self) -> int:
        return self.n_layers * self.latents_per_layer

    def __getitem__(self, latent: int) -> Firings:
        return self.read(latent, latent + 1)[1]

    def read(self, first: int, stop: int) -> tuple[Int64[ndarray, "nnz"], Firings]:
        """The firings of the latents from `first` to before `stop`, and the latent of each; sorted by
        latent, then position."""
        latents, positions, values = zip(*(shard.read(first, stop) for shard in self._shards), strict=True)
        latent, position, value = (np.concatenate(parts) for parts in (latents, positions, values))
        order = np.argsort(latent, kind="stable")  # within a latent, the shards are in order already
        return latent[order], Firings(position[order], value[order])

    @cached_property
    def n_fired(self) -> Int64[ndarray, "latents"]:
        """Tokens on which each latent fired."""
        return np.sum([np.diff(shard.indptr) for shard in self._shards], axis=0)

    @cached_property
    def eligible(self) -> Bool[ndarray, "n"]:
        """The corpus' eligible tokens, without the sinks of this hookpoint."""
        eligible = self.corpus.eligible.copy()
        for shard in self._shards:
            eligible[shard.excluded] = False
        return eligible

    def require_coder(self, wanted: str) -> None:
        """Raises CorruptError where a shard is of another coder than that with this hash."""
        for shard in self._shards:
            if shard.coder != wanted:
                raise CorruptError(f"{shard.path} was cached with another coder; remove it and cache again")

    def _check(self, directory: Path) -> None:
        for shard in self._shards:
            if shard.text != self.corpus.hash:
                raise CorruptError(f"{shard.path} was cached over another text; remove it and cache again")
        covered = [(shard.start, shard.stop) for shard in self._shards]
        expected = 0
        for start, stop in covered:
            if start != expected:
                raise CorruptError(f"{directory} lacks the shard that begins at token {expected}; cache again")
            expected = stop
        if expected != len(self.corpus.tokens):
            raise CorruptError(
                f"{directory} covers {expected:,} of {len(self.corpus.tokens):,} tokens; finish it with `outcrop cache`"
            )


def cache_latents(
    model: LanguageModel,
    corpus: Corpus,
    coders: Sequence[PlacedCoder],
    directory: Path,
    config: CacheConfig,
    *,
    batch_tokens: int = 4_096,
    progress: Progress = silent,
) -> list[LatentCache]:
    """Encode the corpus with every coder, from one forward pass per context, into `directory/<coder key>/`.

    Shards that are there already are kept, so that a killed call goes on where it was.
    """
    coders = [replace(placed, coder=placed.coder.to(model.device)) for placed in coders]
    hashes = {str(placed.key): coder_hash(placed) for placed in coders}
    ranges = shard_ranges(corpus, config.shard_tokens)
    missing = [
        r
        for r in ranges
        if not all(_is_done(_path(directory, p.key, r), corpus, hashes[str(p.key)], r) for p in coders)
    ]
    done = corpus.n_eligible - sum(int(corpus.eligible[r.start : r.stop].sum()) for r in missing)
    with progress("caching latents", corpus.n_eligible, "tokens", done=done) as advance:
        for shard_range in missing:
            written = _encode_range(model, corpus, coders, shard_range, batch_tokens, advance)
            for placed, shard in zip(coders, written, strict=True):
                path = _path(directory, placed.key, shard_range)
                path.parent.mkdir(parents=True, exist_ok=True)
                metadata = _metadata(corpus, placed.key, hashes[str(placed.key)], shard_range)
                write_atomically(path, save(shard, metadata))
    return [open_cache(directory, placed, corpus) for placed in coders]


def open_cache(directory: Path, placed: PlacedCoder, corpus: Corpus) -> LatentCache:
    """The finished cache of one coder."""
    coder = placed.coder
    cache = LatentCache(directory / str(placed.key), placed.key, corpus, coder.n_layers, coder.latents_per_layer)
    cache.require_coder(coder_hash(placed))
    return cache


def shard_ranges(corpus: Corpus, shard_tokens: int) -> list[ShardRange]:
    """Whole contexts, `shard_tokens` tokens or just above, the last shard shorter."""
    ranges: list[ShardRange] = []
    first, start = 0, 0
    for context in range(corpus.n_contexts):
        stop = int(corpus.context_start[context + 1])
        if stop - start >= shard_tokens or context == corpus.n_contexts - 1:
            ranges.append(ShardRange(len(ranges), range(first, context + 1), start, stop))
            first, start = context + 1, stop
    return ranges


def coder_hash(placed: PlacedCoder) -> str:
    """Of everything that its codes depend on."""
    coder = placed.coder
    settings = [str(placed.key), placed.max_norm, asdict(coder.architecture), coder.reads, coder.read_scale]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for _, tensor in sorted(coder.state_dict().items()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class _Shard:
    """One file, read slice by slice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
            metadata = json.loads(self._file.metadata()["outcrop"])
            self.text, self.coder = metadata["text"], metadata["coder"]
            self.start, self.stop = metadata["start"], metadata["stop"]
            self.indptr: Int64[ndarray, "latents_plus_1"] = self._file.get_tensor("indptr")
            self.excluded = self._file.get_tensor("excluded").astype(np.int64) + self.start
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise CorruptError(f"{path} is truncated or altered ({error}); remove it and cache again") from error

    def read(self, first: int, stop: int) -> tuple[Int64[ndarray, "x"], Int64[ndarray, "x"], Float32[ndarray, "x"]]:
        """Latent, position in the corpus and activation of the entries of some latents."""
        begin, end = int(self.indptr[first]), int(self.indptr[stop])
        latent = np.repeat(np.arange(first, stop), np.diff(self.indptr[first : stop + 1]))
        if begin == end:
            return latent, np.empty(0, np.int64), np.empty(0, np.float32)
        position = self._file.get_slice("position")[begin:end].astype(np.int64) + self.start
        scale = self._file.get_slice("scale")[first:stop]
        value = self._file.get_slice("value")[begin:end].astype(np.float32) * scale[latent - first]
        return latent, position, value


def _encode_range(
    model: LanguageModel,
    corpus: Corpus,
    coders: Sequence[PlacedCoder],
    shard_range: ShardRange,
    batch_tokens: int,
    advance: Advance,
) -> list[dict[str, ndarray]]:
    """The tensors of one shard for each coder."""
    collectors = [_Collector(placed, shard_range) for placed in coders]
    hookpoints = list(dict.fromkeys(placed.key.source for placed in coders))
    for captured in activations(model, corpus, shard_range.contexts, hookpoints, batch_tokens):
        for collector in collectors:
            collector.add(captured.at[collector.placed.key.source], captured.position)
        advance(len(captured.position))
    return [collector.shard() for collector in collectors]


class _Collector:
    """Gathers one coder's codes over a shard and sorts them by latent at the end."""

    def __init__(self, placed: PlacedCoder, shard_range: ShardRange) -> None:
        self.placed, self._range = placed, shard_range
        self._position: list[Int64[ndarray, "nnz"]] = []
        self._latent: list[Int64[ndarray, "nnz"]] = []
        self._value: list[Float32[ndarray, "nnz"]] = []
        self._excluded: list[Int64[ndarray, "n"]] = []

    @torch.no_grad()
    def add(self, x: torch.Tensor, position: Int64[ndarray, "n"]) -> None:
        x = x.float()
        if x.shape[1] != self.placed.coder.d_in:
            raise CoderError(
                f"{self.placed.key.source} is {x.shape[1]} wide, but the coder reads {self.placed.coder.d_in}; "
                "it was trained on another hookpoint or model"
            )
        if self.placed.max_norm is not None:
            keep = within_norm(x, self.placed.max_norm).cpu()
            self._excluded.append(position[~keep.numpy()])
            x, position = x[keep.to(x.device)], position[keep.numpy()]
        codes: SparseLatents = self.placed.coder.encode(x)
        self._position.append(np.repeat(position, codes.indptr.diff().cpu().numpy()) - self._range.start)
        self._latent.append(codes.indices.cpu().numpy())
        self._value.append(codes.values.cpu().numpy())

    def shard(self) -> dict[str, ndarray]:
        latent, value = np.concatenate(self._latent), np.concatenate(self._value)
        position = np.concatenate(self._position)
        shape = (self._range.stop - self._range.start, self.placed.coder.n_latents)
        # From token-sorted to latent-sorted in time linear in the number of entries.
        by_latent = coo_array((value, (position, latent)), shape=shape).tocsc()
        by_latent.sort_indices()
        excluded = np.sort(np.concatenate(self._excluded)) - self._range.start if self._excluded else np.empty(0)
        return _tensors(by_latent.indptr, by_latent.indices, by_latent.data, excluded)


def _tensors(indptr: ndarray, position: ndarray, value: ndarray, excluded: ndarray) -> dict[str, ndarray]:
    """Values as float16 shares of their latent's maximum, never rounded to zero."""
    n_entries = np.diff(indptr)
    scale = np.zeros(len(n_entries), dtype=np.float32)
    fired = n_entries > 0
    if fired.any():
        scale[fired] = np.maximum.reduceat(value, indptr[:-1][fired])
    share = np.maximum((value / np.repeat(scale, n_entries)).astype(np.float16), _SMALLEST)
    assert np.isfinite(share).all() and (share > 0).all(), "a stored activation is finite and never zero"
    return {
        "indptr": indptr.astype(np.int64),
        "position": position.astype(np.uint32),
        "value": share,
        "scale": scale,
        "excluded": excluded.astype(np.uint32),
    }


def _path(directory: Path, key: CoderKey, shard_range: ShardRange) -> Path:
    return directory / str(key) / f"shard_{shard_range.index:05d}.safetensors"


def _metadata(corpus: Corpus, key: CoderKey, coder: str, shard_range: ShardRange) -> dict[str, str]:
    """One entry, because safetensors writes several in no fixed order."""
    start, stop = shard_range.start, shard_range.stop
    return {"outcrop": json.dumps({"key": str(key), "text": corpus.hash, "coder": coder, "start": start, "stop": stop})}


def _is_done(path: Path, corpus: Corpus, coder: str, shard_range: ShardRange) -> bool:
    """Whether this shard is there: of this text, this coder and this range."""
    if not path.exists():
        return False
    shard = _Shard(path)
    expected = (corpus.hash, coder, shard_range.start, shard_range.stop)
    return (shard.text, shard.coder, shard.start, shard.stop) == expected
