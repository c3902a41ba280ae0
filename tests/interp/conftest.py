"""Latents, windows and judges that are small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from outcrop.config import JudgeConfig
from outcrop.types import CoderKey, Example, Hookpoint, LatentExamples, LatentId, Vocabulary, Window

WORDS = (" apple", " pear", " house", " engine", " the", '"', "<", "<|im_end|>", ">>", "\n")
KEY = CoderKey("topk", Hookpoint("model.layers.3"), Hookpoint("model.layers.3"), 0)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(tuple(word.encode() for word in WORDS))


def window(*words: str, fires: dict[int, float] | None = None) -> Window:
    """A window of these words; `fires` gives the activations at some of them."""
    activations = np.zeros(len(words), np.float32)
    for place, value in (fires or {}).items():
        activations[place] = value
    return Window(np.array([WORDS.index(word) for word in words]), activations, 0, 0, 0)


def latent(index: int = 0, n_score: int = 4) -> LatentExamples:
    """Fires on fruit: weakly on pears, strongly on apples."""
    explain = (
        Example(0, 0, "explain", window(" the", " pear", fires={1: 1.0}), quantile=1),
        Example(1, 1, "explain", window(" the", " apple", fires={1: 5.0}), quantile=2),
        Example(2, 2, "explain", window(" the", " engine"), stratum="random"),
    )
    score = tuple(
        Example(3 + i, 3 + i, "score", window(" apple", *[" the"] * i, fires={0: 1.0}), quantile=1)
        if i % 2
        else Example(3 + i, 3 + i, "score", window(" house", *[" the"] * i), stratum="random")
        for i in range(n_score)
    )
    return LatentExamples(LatentId(KEY, index), 0.01, 0.1, explain, score, ())


@pytest.fixture
def quick() -> JudgeConfig:
    return JudgeConfig(concurrency=4, timeout_seconds=5.0, attempts=3)


@pytest.fixture(autouse=True)
def no_key_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("outcrop.interp.clients.openai._FIRST_WAIT_SECONDS", 0.02)
