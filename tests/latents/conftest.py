"""A cache of a small random coder over the tiny model, and everything in it computed densely."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import ndarray

from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture, CacheConfig
from outcrop.latents.cache import LatentCache, cache_latents
from outcrop.latents.split import score_documents
from outcrop.latents.windows import Grid, build_grid
from outcrop.model.corpus import Corpus
from outcrop.model.hooks import capture
from outcrop.model.load import LanguageModel
from outcrop.model.tokens import vocabulary
from outcrop.types import CoderKey, Hookpoint

POINT = Hookpoint("model.layers.1")
WINDOW = 8


@dataclass(frozen=True)
class Cached:
    """The cache, its grid, and the dense activations [n L·M] that it must equal."""

    cache: LatentCache
    grid: Grid
    is_score: ndarray
    dense: ndarray
    eligible: ndarray
    directory: Path
    placed: PlacedCoder


@pytest.fixture(scope="session")
def placed(model: LanguageModel, corpora: dict[str, Corpus]) -> PlacedCoder:
    """A stack of two layers with random weights, whose sink norm excludes some tokens."""
    x = _hidden(model, corpora["held_out"])
    coder = SparseStack(Architecture(n_latents=128, k=2, layers=2), 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        coder.decoder_bias.copy_(x.mean(dim=0))
    max_norm = float(x.norm(dim=1).quantile(0.97))
    return PlacedCoder(CoderKey("topk", POINT, POINT, 0), coder.requires_grad_(False), max_norm)


@pytest.fixture(scope="session")
def cached(
    model: LanguageModel, corpora: dict[str, Corpus], placed: PlacedCoder, tmp_path_factory: pytest.TempPathFactory
) -> Cached:
    corpus, directory = corpora["cache"], tmp_path_factory.mktemp("cache")
    (cache,) = cache_latents(model, corpus, [placed], directory, CacheConfig(shard_tokens=700), batch_tokens=200)
    hidden = _hidden(model, corpus)
    eligible = corpus.eligible & (hidden.norm(dim=1) <= placed.max_norm).numpy()
    grid = build_grid(corpus, eligible, WINDOW, vocabulary(model.tokenizer))
    is_score = score_documents(corpus.n_documents, 0)
    return Cached(cache, grid, is_score, _dense(placed, hidden, eligible), eligible, directory, placed)


def _hidden(model: LanguageModel, corpus: Corpus) -> torch.Tensor:
    """[n d], one context at a time."""
    contexts = np.split(corpus.tokens, corpus.context_start[1:-1])
    return torch.cat([capture(model, torch.from_numpy(c).long()[None], [POINT])[POINT][0].float() for c in contexts])


def _dense(placed: PlacedCoder, hidden: torch.Tensor, eligible: ndarray) -> ndarray:
    latents = placed.coder.encode(hidden)
    dense = np.zeros((len(hidden), latents.n_latents), dtype=np.float32)
    token = np.repeat(np.arange(len(hidden)), latents.indptr.diff().numpy())
    dense[token, latents.indices.numpy()] = latents.values.numpy()
    dense[~eligible] = 0
    return dense
