"""Our detection of made-up windows at a server; one step scores all latents."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from given import WINDOW, words
from serve import Step, serve

from outcrop.config import JudgeConfig, ScoreConfig
from outcrop.interp.clients.openai import OpenAIClient
from outcrop.interp.score import score
from outcrop.types import CoderKey, Example, Explanation, Hookpoint, LatentExamples, LatentId, Vocabulary, Window

KEY = CoderKey("benchmark", Hookpoint("place"), Hookpoint("place"), 0)


def open_case(case: dict[str, Any]) -> tuple[Step, Any]:
    vocabulary = Vocabulary(tuple(word.encode() for word in words()))
    draw = random.Random(0)
    examples = [_latent(i, case["n_windows"], draw) for i in range(min(case["latents"], case["m"]))]
    explanations = [Explanation(one.latent, "made up", "all", "names of fruit", "") for one in examples]
    config = JudgeConfig(concurrency=case["slots"])

    def step() -> None:
        client = OpenAIClient(case["address"], None, config)
        found = list(score(examples, explanations, client, vocabulary, ScoreConfig(controls=())))
        assert len(found) == len(examples) * case["n_windows"]
        assert all(one.predicted for one in found)

    return step, lambda: 0


def _latent(index: int, n_windows: int, draw: random.Random) -> LatentExamples:
    score = tuple(
        Example(i, i, "score", _window(draw, fires=i % 2), **({"quantile": 1} if i % 2 else {"stratum": "random"}))
        for i in range(n_windows)
    )
    return LatentExamples(LatentId(KEY, index), 0.01, 0.1, (), score, ())


def _window(draw: random.Random, *, fires: int) -> Window:
    tokens = np.array([draw.randrange(8000) for _ in range(WINDOW)])
    activations = np.zeros(WINDOW, dtype=np.float32)
    activations[:fires] = 1.0
    return Window(tokens, activations, 0, 0, 0)


if __name__ == "__main__":
    serve(open_case)
