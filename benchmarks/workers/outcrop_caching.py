"""Our cache of what the contenders are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture, CacheConfig
from outcrop.latents.cache import LatentCache, cache_latents
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.types import CoderKey, Hookpoint

if __package__:  # the driver looks into the caches, too
    from .given import encoder_rows, language_model, text
else:
    from given import encoder_rows, language_model, text


def caching(case: dict[str, Any]) -> Callable[[], LatentCache]:
    """A function that makes the cache, or opens what is there already."""
    module, path = language_model(case)
    model, corpus = LanguageModel(module, None, "benchmark"), _corpus(text(case["n"]), case["bos"])
    placed = PlacedCoder(CoderKey("benchmark", Hookpoint(path), Hookpoint(path), 0), _coder(case))
    return lambda: cache_latents(model, corpus, [placed], folder(case), CacheConfig())[0]


def folder(case: dict[str, Any]) -> Path:
    return Path(case["folder"]) / str(case["m"])


def _corpus(tokens: Tensor, bos: bool) -> Corpus:
    """Contexts of equal length, each a document. Every token counts, as it does for delphi, but for the one that `bos`
    puts before each context: our statistics know of none at the start, and delphi's pipeline leaves it out itself."""
    n, length = len(tokens), tokens.shape[1] + bos
    eligible = np.ones((n, length), dtype=bool)
    eligible[:, :bos] = False
    return Corpus(
        tokens=F.pad(tokens.int(), (int(bos), 0)).flatten().numpy(),
        context_start=np.arange(n + 1, dtype=np.int64) * length,
        context_document=np.arange(n, dtype=np.int32),
        eligible=eligible.flatten(),
    )


def _coder(case: dict[str, Any]) -> SparseStack:
    stack = SparseStack(Architecture(n_latents=case["m"], k=case["k"]), case["d"]).eval().requires_grad_(False)
    rows = encoder_rows(case["m"], case["d"])
    with torch.no_grad():
        stack.layers[0].encoder.copy_(rows)
        stack.layers[0].decoder.copy_(rows)
    return stack
