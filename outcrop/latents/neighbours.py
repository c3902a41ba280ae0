"""Which latents are like a latent: they fire on the same tokens, or their weights point the same way.

n_a tokens on which a fires, c_ab on which both do, N eligible tokens, p_a = n_a/N, p_ab = c_ab/N:

    jaccard   c_ab / (n_a + n_b − c_ab)
    npmi      log(p_ab / (p_a p_b)) / −log p_ab, in [−1, 1]
    decoder   cosine of the decoder rows
    encoder   cosine of the encoder rows

Layers of a stack are not kept apart. A latent that fires on more than 10% of the tokens, or never, is nobody's
neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from numpy import ndarray
from scipy.sparse import coo_array, csr_array
from torch import Tensor
from torch.nn import functional as F

from outcrop.config import NeighbourMeasure
from outcrop.latents.cache import LatentCache
from outcrop.latents.shards import taken
from outcrop.latents.statistics import DENSE_RATE

_PAIRS = 1 << 25  # counts, or cosines, held at once


@dataclass(frozen=True)
class Neighbours:
    """The nearest latents of some latents, nearest first; -1 and NaN where there are fewer."""

    of: Int64[ndarray, "a"]  # ascending
    latent: Int64[ndarray, "a n"]
    similarity: Float32[ndarray, "a n"]

    def of_latent(self, latent: int) -> tuple[Int64[ndarray, "m"], Float32[ndarray, "m"]]:
        """Its neighbours, and how like they are."""
        row = int(np.searchsorted(self.of, latent))
        there = self.latent[row] >= 0
        return self.latent[row, there], self.similarity[row, there]


def find_neighbours(
    cache: LatentCache, latents: Int64[ndarray, "a"], measure: NeighbourMeasure, n: int = 10
) -> Neighbours:
    """The n nearest of each of `latents` among all latents of the coder.

    Co-firing takes time with the number of pairs of firings on one token of which one is of `latents`, and memory
    with the firings on such tokens. Raises CoderError for `encoder` where the encoder rows have no common space.
    """
    eligible = _possible(cache)
    if measure in ("decoder", "encoder"):
        coder = cache.placed.coder
        blocks = _cosines(coder.decoder_rows() if measure == "decoder" else coder.encoder_rows(), latents, eligible)
    else:
        blocks = _co_firing(cache, latents, measure, eligible)
    nearest, similarity = np.full((len(latents), n), -1), np.full((len(latents), n), np.nan, np.float32)
    for row, (others, likeness) in enumerate(blocks):
        best = _largest(likeness, others, n)
        nearest[row, : len(best)], similarity[row, : len(best)] = others[best], likeness[best]
    return Neighbours(latents, nearest, similarity)


def _possible(cache: LatentCache) -> Bool[ndarray, "latents"]:
    """Which latents may be anyone's neighbour."""
    return (cache.n_fired > 0) & (cache.n_fired <= DENSE_RATE * cache.eligible.sum())


def _largest(likeness: Float[ndarray, "others"], others: Int[ndarray, "others"], n: int) -> Int64[ndarray, "best"]:
    """Where the n largest are that are above -inf, the largest first, equal ones by their latent."""
    bound = np.partition(likeness, len(likeness) - n)[len(likeness) - n] if len(likeness) > n else -np.inf
    candidates = np.flatnonzero((likeness >= bound) & (likeness > -np.inf))
    return candidates[np.lexsort((others[candidates], -likeness[candidates]))][:n]


Others = tuple[Int[ndarray, "others"], Float[ndarray, "others"]]


def _co_firing(
    cache: LatentCache, latents: Int64[ndarray, "a"], measure: NeighbourMeasure, eligible: Bool[ndarray, "latents"]
) -> Iterator[Others]:
    """For each of `latents`, the latents that fire with it, and how alike they are: itself not at all."""
    n_fired, n_tokens = cache.n_fired, int(cache.eligible.sum())
    by_token = _by_token(cache, latents, eligible)
    for block in _blocks(latents, n_fired[latents].astype(np.float64), by_token):
        together = _fires(cache, block) @ by_token
        of = np.repeat(block.astype(np.int32), np.diff(together.indptr))
        likeness = _likeness(measure, n_fired[of], n_fired[together.indices], together.data, n_tokens)
        likeness[of == together.indices] = -np.inf
        for begin, end in zip(together.indptr, together.indptr[1:], strict=False):
            yield together.indices[begin:end], likeness[begin:end]


def _blocks(
    latents: Int64[ndarray, "a"], n_fired: Float64[ndarray, "a"], by_token: csr_array
) -> list[Int64[ndarray, "block"]]:
    """Of about as many firings, and counts by the mean number of latents on a token where there are any."""
    n_tokens = np.count_nonzero(np.diff(by_token.indptr))
    counts = np.minimum(n_fired * by_token.nnz / max(1, n_tokens), by_token.shape[1])
    return np.split(latents, np.flatnonzero(np.diff(np.cumsum(counts + n_fired) // _PAIRS)) + 1)


def _likeness(
    measure: NeighbourMeasure, n_a: Int[ndarray, "x"], n_b: Int[ndarray, "x"], n_ab: Int[ndarray, "x"], n_tokens: int
) -> Float32[ndarray, "x"]:
    if measure == "jaccard":
        return (n_ab / (n_a + n_b - n_ab)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # both on every token: nothing is learned
        npmi = np.log(n_ab / n_a / n_b * n_tokens) / -np.log(n_ab / n_tokens)
    return np.nan_to_num(npmi, nan=0.0).astype(np.float32)


def _by_token(cache: LatentCache, latents: Int64[ndarray, "a"], eligible: Bool[ndarray, "latents"]) -> csr_array:
    """[tokens latents], 1 where a possible neighbour fires, on the tokens where one of `latents` does."""
    everything = len(latents) == cache.n_latents
    wanted = np.full(len(cache.corpus.tokens), everything)
    for latent in [] if everything else latents.tolist():
        wanted[cache[latent].position] = True
    indices: list[ndarray] = []
    n_there: list[ndarray] = []
    for shard in cache.shards:
        latent, position = shard.places()
        keep = eligible[latent] & wanted[shard.start : shard.stop][position]
        ones = np.ones(int(keep.sum()), dtype=np.int32)
        shape = shard.stop - shard.start, len(eligible)
        by_token = coo_array((ones, (position[keep], latent[keep])), shape=shape).tocsr()
        indices.append(by_token.indices)
        n_there.append(np.diff(by_token.indptr))
    joined = taken(indices)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(n_there))])
    return csr_array((np.ones(len(joined), np.int32), joined, indptr), shape=(len(wanted), len(eligible)))


def _fires(cache: LatentCache, latents: Int64[ndarray, "a"]) -> csr_array:
    """[a tokens], 1 where each latent fires."""
    positions = [cache[latent].position for latent in latents.tolist()]
    indptr = np.cumsum([0, *map(len, positions)])
    ones = np.ones(indptr[-1], dtype=np.int32)
    return csr_array((ones, np.concatenate(positions), indptr), shape=(len(latents), len(cache.corpus.tokens)))


def _cosines(
    rows: Float[Tensor, "latents d"], latents: Int64[ndarray, "a"], eligible: Bool[ndarray, "latents"]
) -> Iterator[Others]:
    others = np.flatnonzero(eligible)
    rows = F.normalize(rows.detach(), dim=1)
    columns = rows[torch.from_numpy(others).to(rows.device)].T
    for block in np.array_split(latents, 1 + len(latents) * len(others) // _PAIRS):
        cosines = (rows[torch.from_numpy(block).to(rows.device)] @ columns).cpu().numpy()
        for latent, likeness in zip(block.tolist(), cosines, strict=True):
            likeness[others == latent] = -np.inf
            yield others, likeness
