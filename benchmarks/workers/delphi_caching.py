"""delphi's cache of what the contenders are given, made as its pipeline makes it, at its default settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from delphi.config import CacheConfig
from delphi.latents import LatentCache
from delphi.sparse_coders.load_sparsify import sae_dense_latents
from given import encoder_rows, language_model, text
from sparsify import SparseCoder, SparseCoderConfig


def caching(case: dict[str, Any]) -> Callable[[], None]:
    """A function that makes the cache."""
    model, path = language_model(case)
    encode, tokens, config = partial(sae_dense_latents, sae=_coder(case)), text(case["n"]), CacheConfig()

    def make() -> None:
        cache = LatentCache(model, {path: encode}, batch_size=config.batch_size)
        cache.run(tokens.numel(), tokens)
        cache.save_splits(n_splits=config.n_splits, save_dir=folder(case))
        cache.save_config(save_dir=folder(case), cfg=config, model_name="benchmark")

    return make


def folder(case: dict[str, Any]) -> Path:
    return Path(case["folder"]) / str(case["m"])


def _coder(case: dict[str, Any]) -> SparseCoder:
    coder = SparseCoder(case["d"], SparseCoderConfig(num_latents=case["m"], k=case["k"])).requires_grad_(False)
    rows = encoder_rows(case["m"], case["d"])
    with torch.no_grad():
        coder.encoder.weight.copy_(rows)
        coder.W_dec.copy_(rows)
    return coder
