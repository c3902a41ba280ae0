"""The latent cache: which latent fired where, and how strongly.

    directory/CODER KEY/shard_00000.safetensors …      (see `shards`)

Caching keeps the shards that are there, so that it goes on where it was, and so that more text may be put behind the
old: only the last shard, which was shorter, is then made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from numpy import ndarray

from outcrop.coders.placed import PlacedCoder
from outcrop.config import CacheConfig
from outcrop.errors import CoderError, CorruptError
from outcrop.latents.shards import (
    Made,
    Shard,
    ShardRange,
    shard_ranges,
    sorted_by_latent,
    taken,
    text_hash,
    write_shard,
)
from outcrop.model.activations import activations
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance, Progress, silent
from outcrop.types import CoderKey, SparseLatents, within_norm


@dataclass(frozen=True)
class Firings:
    """Where one latent fires: positions ascending, activations > 0."""

    position: Int64[ndarray, "nnz"]
    value: Float32[ndarray, "nnz"]


class LatentCache:
    """A latent-sorted view over the shards of one coder. `cache[latent]` reads that latent's bytes only."""

    def __init__(self, directory: Path, placed: PlacedCoder, corpus: Corpus) -> None:
        """CorruptError where a shard is missing, damaged, of another coder or text, or of another language model than
        the first."""
        self.placed, self.corpus = placed, corpus
        self.directory = directory / str(placed.key)
        self.shards = [Shard(path) for path in sorted(self.directory.glob("shard_*.safetensors"))]
        self._check()

    @property
    def key(self) -> CoderKey:
        return self.placed.key

    @property
    def n_layers(self) -> int:
        return self.placed.coder.n_layers

    @property
    def latents_per_layer(self) -> int:
        return self.placed.coder.latents_per_layer

    @property
    def n_latents(self) -> int:
        return self.placed.coder.n_latents

    def __getitem__(self, latent: int) -> Firings:
        if not 0 <= latent < self.n_latents:
            raise CoderError(f"there is no latent {latent}; {self.key} has {self.n_latents:,}, from 0")
        parts = [shard.read(latent, latent + 1) for shard in self.shards]
        return Firings(np.concatenate([p for _, p, _ in parts]), np.concatenate([v for _, _, v in parts]))

    def positions(self, latent: int) -> Int64[ndarray, "nnz"]:
        """Where in the corpus it fires, ascending, without its activations."""
        parts = [(shard.start, shard.fires(latent, latent + 1)[1]) for shard in self.shards]
        return np.concatenate([start + at.astype(np.int64) for start, at in parts])

    @cached_property
    def n_fired(self) -> Int64[ndarray, "latents"]:
        """Tokens on which each latent fired."""
        return np.sum([shard.n_fired for shard in self.shards], axis=0)

    @cached_property
    def eligible(self) -> Bool[ndarray, "n"]:
        """The corpus' eligible tokens, without the sinks of this hookpoint."""
        eligible = self.corpus.eligible.copy()
        for shard in self.shards:
            eligible[shard.excluded] = False
        return eligible

    def verify(self, progress: Progress = silent) -> None:
        """Read every byte; CorruptError names the first shard that is not as it was written."""
        with progress(f"verifying {self.key}", len(self.shards), "shards") as advance:
            for shard in self.shards:
                shard.verify()
                advance(1)

    def _check(self) -> None:
        coder, expected, starts = self.placed.hash, 0, self.corpus.context_start
        for shard in self.shards:
            if shard.made.coder != coder:
                raise CorruptError(f"{shard.path} was cached with another coder; remove it and cache again")
            self._require_the_same_model(self.shards[0], shard)
            if shard.start != expected:
                raise CorruptError(
                    f"{shard.path} begins at token {shard.start:,}, but the one before it ends at {expected:,}: one is "
                    "missing or altered; remove it and cache again"
                )
            first, stop = np.searchsorted(starts, [shard.start, shard.stop]).tolist()
            ends_there = stop < len(starts) and starts[stop] == shard.stop
            if not ends_there or shard.made.text != text_hash(self.corpus, range(first, stop)):
                raise CorruptError(f"{shard.path} was cached over another text; remove it and cache again")
            expected = shard.stop
        if expected != len(self.corpus.tokens):
            raise CorruptError(
                f"{self.directory} covers {expected:,} of {len(self.corpus.tokens):,} tokens; "
                "finish it with `outcrop cache`"
            )

    def _require_the_same_model(self, first: Shard, shard: Shard) -> None:
        if shard.made.model != first.made.model:
            raise CorruptError(
                f"{shard.path} was cached from the language model {shard.made.model}, but {first.path.name} from "
                f"{first.made.model}; remove the wrong one and cache again"
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
    """Encode the corpus with every coder, from one forward pass per context, into `directory/CODER KEY/`.

    Shards that are there already are kept, so that a killed call goes on where it was.
    """
    coders = [replace(placed, coder=placed.coder.to(model.device)) for placed in coders]
    missing: dict[ShardRange, list[tuple[Path, Made]]] = {}
    for r in shard_ranges(corpus, config.shard_tokens):
        of_all = model.identity, text_hash(corpus, r.contexts)
        shards = [
            (directory / str(placed.key) / r.name, Made(*of_all, placed.hash, r.start, r.stop)) for placed in coders
        ]
        if not all(_is_done(*shard) for shard in shards):
            missing[r] = shards
    done = corpus.n_eligible - sum(int(corpus.eligible[r.start : r.stop].sum()) for r in missing)
    with progress("caching latents", corpus.n_eligible, "tokens", done=done) as advance:
        for shard_range, shards in missing.items():
            collectors = [Collector(placed, shard_range) for placed in coders]
            _encode_range(model, corpus, collectors, shard_range, batch_tokens, advance)
            for path, made in shards:
                write_shard(path, collectors.pop(0).tensors(), made)  # what a collector has gathered goes with it
    return [LatentCache(directory, placed, corpus) for placed in coders]


def _encode_range(
    model: LanguageModel,
    corpus: Corpus,
    collectors: Sequence[Collector],
    shard_range: ShardRange,
    batch_tokens: int,
    advance: Advance,
) -> None:
    hookpoints = list(dict.fromkeys(collector.placed.key.source for collector in collectors))
    for captured in activations(model, corpus, shard_range.contexts, hookpoints, batch_tokens):
        for collector in collectors:
            collector.add(captured.at[collector.placed.key.source], captured.position)
        advance(len(captured.position))


class Collector:
    """Gathers one coder's codes over a shard and sorts them by latent at the end."""

    def __init__(self, placed: PlacedCoder, shard_range: ShardRange) -> None:
        self.placed, self._range = placed, shard_range
        self._position: list[Int32[ndarray, "nnz"]] = []
        self._latent: list[Int32[ndarray, "nnz"]] = []
        self._value: list[Float32[ndarray, "nnz"]] = []
        self._excluded: list[Int64[ndarray, "n"]] = [np.empty(0, np.int64)]

    @torch.no_grad()
    def add(self, x: Float[torch.Tensor, "n d_in"], position: Int64[ndarray, "n"]) -> None:
        """Activations at the source, and where in the corpus they are."""
        x, position = x.float(), position - self._range.start
        if x.shape[1] != self.placed.coder.d_in:
            raise CoderError(
                f"{self.placed.key.source} is {x.shape[1]} wide, but the coder reads {self.placed.coder.d_in}; "
                "it was trained on another hookpoint or model"
            )
        if self.placed.max_norm is not None:
            keep = within_norm(x, self.placed.max_norm)
            self._excluded.append(position[~keep.cpu().numpy()])
            x, position = x[keep], position[keep.cpu().numpy()]
        codes: SparseLatents = self.placed.coder.encode(x)
        self._position.append(np.repeat(position.astype(np.int32), codes.indptr.diff().cpu().numpy()))
        self._latent.append(codes.indices.int().cpu().numpy())
        self._value.append(codes.values.cpu().numpy())

    def tensors(self) -> dict[str, ndarray]:
        """Those of the shard, once; what was gathered is given up."""
        position, latent, value = map(taken, (self._position, self._latent, self._value))
        shape = self._range.stop - self._range.start, self.placed.coder.n_latents
        return sorted_by_latent(position, latent, value, shape, np.sort(np.concatenate(self._excluded)))


def _is_done(path: Path, made: Made) -> bool:
    """Whether this shard is there: of this model, this text, this coder and this range."""
    return path.exists() and Shard(path).made == made
