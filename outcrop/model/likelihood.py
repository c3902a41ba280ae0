"""How likely a language model finds texts that follow a prefix.

    NLL(text | prefix) = −(1/n) Σ_i ln p(token_i | prefix, token_<i)    nats per token

A text is tokenised apart from the prefix, so that its n tokens are the same behind every prefix. Before the prefix
stands the model's beginning of a text, where its tokenizer knows one. The key-value cache of all prefix tokens but
the last is computed once; each batch runs the last one and its texts, padded on the right: causal attention keeps
real tokens from seeing the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from outcrop.model.load import LanguageModel

_UNLIMITED = 1 << 30


def spread(cache: DynamicCache, n: int) -> DynamicCache:
    """A copy of the cache of one text for a batch of n, which a forward pass may lengthen."""
    copy = DynamicCache()
    for block, layer in enumerate(cache.layers):
        copy.update(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1), block)
    return copy


@runtime_checkable
class Likelihoods(Protocol):
    def mean_nll(self, prefix: str, texts: Sequence[str]) -> Float64[ndarray, "n"]:
        """Nats per token of each text after the prefix."""
        ...


@dataclass(frozen=True)
class Reader:
    """A base language model, and how many texts it reads at once."""

    lm: LanguageModel
    batch: int

    @torch.inference_mode()
    def mean_nll(self, prefix: str, texts: Sequence[str]) -> Float64[ndarray, "n"]:
        """Nats per token of each text after the prefix, which must not be empty.

        NaN where a text has no token, where it and the prefix are longer than the model reads, and where the logits
        are not finite.
        """
        before = self.prefix_tokens(prefix)
        tokens = [self.tokens(text) for text in texts]
        room = (getattr(self.lm.module.config, "max_position_embeddings", None) or _UNLIMITED) - len(before)
        chosen = sorted((i for i, of in enumerate(tokens) if 0 < len(of) <= room), key=lambda i: len(tokens[i]))
        found = np.full(len(texts), np.nan)
        if chosen:
            cache = self._cache(before[:-1])
            for start in range(0, len(chosen), self.batch):
                some = chosen[start : start + self.batch]
                found[some] = self._batch_nll(before[-1], [tokens[i] for i in some], spread(cache, len(some)))
        return found

    def prefix_tokens(self, prefix: str) -> list[int]:
        first = self.lm.tokenizer.bos_token_id
        return [*([] if first is None else [first]), *self.tokens(prefix)]

    def tokens(self, text: str) -> list[int]:
        return list(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _cache(self, tokens: list[int]) -> DynamicCache:
        """Of the plain kind for every architecture: one that drops what lies beyond a sliding window has gaps."""
        cache = DynamicCache()
        if tokens:
            self._logits([tokens], cache)
        return cache

    def _batch_nll(self, last: int, texts: Sequence[list[int]], cache: DynamicCache) -> Float64[ndarray, "batch"]:
        """Position i of a row holds the token before the text's token i."""
        width = max(map(len, texts))
        logits = self._logits([[last, *text[:-1], *[last] * (width - len(text))] for text in texts], cache)
        nll = [
            cross_entropy(row[: len(text)].float(), torch.tensor(text, device=row.device))
            for row, text in zip(logits, texts, strict=True)
        ]
        values = torch.stack(nll).double().cpu().numpy()
        return np.where(np.isfinite(values), values, np.nan)

    def _logits(self, rows: list[list[int]], cache: DynamicCache) -> Any:
        tokens = torch.tensor(rows, device=self.lm.device)
        return self.lm.module(input_ids=tokens, past_key_values=cache, use_cache=True).logits
