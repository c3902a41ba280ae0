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
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from numpy import ndarray
from scipy.sparse import coo_array, csr_array
from torch import Tensor
from torch.nn import functional as F

from outcrop.config import NeighbourMeasure
from outcrop.kernels import add_co_firings_
from outcrop.latents.cache import LatentCache
from outcrop.latents.statistics import DENSE_RATE

_PAIRS = 1 << 27  # counts, or cosines, held at once


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

    Co-firing takes time with the number of pairs of firings on one token of which one is of `latents`, and with all
    firings once for each block of them; in memory are the counts of a block and the firings of one shard. Raises
    CoderError for `encoder` where the encoder rows have no common space.
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
    n_blocks = -(-len(latents) * cache.n_latents // _PAIRS)
    for block in np.array_split(latents, n_blocks) if n_blocks else []:
        together = _together(cache, block)
        together[:, ~eligible] = 0
        together[np.arange(len(block)), block] = 0
        for latent, counts in zip(block.tolist(), together, strict=True):
            others = np.flatnonzero(counts)
            yield others, _likeness(measure, int(n_fired[latent]), n_fired[others], counts[others], n_tokens)


def _together(cache: LatentCache, block: Int64[ndarray, "a"]) -> Int32[ndarray, "a latents"]:
    """On how many tokens each latent of a block, which ascends, fires with each of all latents."""
    counts = torch.zeros(cache.n_latents, len(block), dtype=torch.int32)
    runs = np.split(block, np.flatnonzero(np.diff(block) != 1) + 1)  # of latents whose bytes lie behind one another
    for shard in cache.shards:
        on = _on_tokens([shard.fires(int(run[0]), int(run[-1]) + 1) for run in runs], shard.stop - shard.start)
        on_tokens = on.indptr.astype(np.int64), on.indices.astype(np.int32, copy=False)
        add_co_firings_(counts, *map(torch.from_numpy, (*shard.fires(0, cache.n_latents), *on_tokens)))
    return counts.T.contiguous().numpy()


def _on_tokens(runs: list[tuple[Int64[ndarray, "_"], Int32[ndarray, "_"]]], n_tokens: int) -> csr_array:
    """[tokens latents], 1 where a latent fires, from where each begins and the tokens on which they do."""
    n_fired = np.concatenate([np.diff(start) for start, _ in runs])
    latent, token = np.repeat(np.arange(len(n_fired), dtype=np.int32), n_fired), np.concatenate([at for _, at in runs])
    ones = np.ones(len(token), dtype=bool)
    return coo_array((ones, (token, latent)), shape=(n_tokens, len(n_fired))).tocsr()


def _likeness(
    measure: NeighbourMeasure, n_a: int, n_b: Int[ndarray, "x"], n_ab: Int[ndarray, "x"], n_tokens: int
) -> Float32[ndarray, "x"]:
    if measure == "jaccard":
        return (n_ab / (n_a + n_b - n_ab)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # both on every token: nothing is learned
        npmi = np.log(n_ab / n_a / n_b * n_tokens) / -np.log(n_ab / n_tokens)
    return np.nan_to_num(npmi, nan=0.0).astype(np.float32)


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
