"""What the contenders of `cache` and `examples` are given: a text, a coder, and the activations that it reads.

Everything is drawn anew from the same seeds in every process. Token types follow Zipf's law, and activations are
x = type's direction + noise, so that latents fire unevenly and have tokens of their own.

Stands alone (the standard library and torch), because it also runs in the peers' environments.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import string
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_TYPES, CONTEXT, WINDOW = 8192, 256, 32
# delphi's defaults, for both
QUANTILES, EXPLAIN, SCORE, NEGATIVES = 10, 40, 50, 50


class Replay(nn.Module):
    """In place of a language model: each pass takes the activations of the next contexts to `place`, over and over.

    What stands before a context's 256 tokens has activations of 0.
    """

    device = torch.device("cpu")

    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.place = nn.Identity()
        self._activations, self._taken = activations, 0  # [contexts 256 d]

    def forward(self, input_ids: Tensor, **_: Any) -> None:
        n, length = input_ids.shape
        start = self._taken % len(self._activations)
        self._taken += n
        self.place(F.pad(self._activations[start : start + n], (0, 0, length - CONTEXT, 0)))


def text(n: int) -> Tensor:
    """[contexts 256], int64."""
    weight = 1 / torch.arange(1, N_TYPES + 1)
    drawn = torch.multinomial(weight, n, replacement=True, generator=torch.Generator().manual_seed(n))
    return drawn.view(-1, CONTEXT)


def words() -> list[str]:
    """Every type's string."""
    spelled = itertools.islice(itertools.product(string.ascii_lowercase, repeat=3), N_TYPES)
    return [" " + "".join(letters) for letters in spelled]


def encoder_rows(m: int, d: int) -> Tensor:
    """[M d], of unit norm. The decoder's are the same; there are no biases."""
    return F.normalize(torch.randn(m, d, generator=torch.Generator().manual_seed(m)), dim=1)


def language_model(case: dict[str, Any]) -> tuple[nn.Module, str]:
    """The case's language model, or what stands in for it, and the path of the place at which the coder reads."""
    if case["model"] is None:
        return Replay(_activations(text(case["n"]), case["d"])), "place"
    from transformers import AutoModel

    module = AutoModel.from_pretrained(case["model"], dtype=torch.float32)
    return module.eval().requires_grad_(False), case["hookpoint"]


def give_back_memory() -> None:
    """What malloc has kept of earlier work would otherwise not count as memory that later work needs."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _activations(tokens: Tensor, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(d)
    direction = torch.randn(N_TYPES, d, generator=generator)
    return torch.randn(*tokens.shape, d, generator=generator).add_(direction[tokens])
