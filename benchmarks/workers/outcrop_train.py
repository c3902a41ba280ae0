"""Our training run, `train_coders` as it is; and by itself each part of the floor under it, on as many tokens.

forward    the language model up to the last hookpoint
product    one hookpoint's encoder product, batch by batch, in bfloat16, into a reused buffer
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from serve_turns import Passed, serve

from outcrop.config import Architecture, ModelConfig, TrainConfig
from outcrop.model.activations import activations
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel, load_model
from outcrop.progress import Advance
from outcrop.train.loop import train_coders
from outcrop.types import CoderKey, Hookpoint


def run(case: dict[str, Any], passed: Passed) -> object:
    match case["part"]:
        case "training":
            return _training(case, passed)
        case "forward":
            return _forward(case, passed)
        case "product":
            return _product(case, passed)
    raise ValueError(f"unknown part {case['part']!r}")


def _training(case: dict[str, Any], passed: Passed) -> object:
    text = _corpus(np.load(case["text"]))
    config = TrainConfig(
        optimizer=case["optimizer"],
        auxk_weight=0.0,  # which sparsify leaves out, too
        batch_tokens=case["batch_tokens"],
        block_tokens=case["turn_tokens"],
        evaluate_every_tokens=text.n_eligible,  # sparsify measures nothing on other text, either
    )
    coders = {
        CoderKey("benchmark", hookpoint, hookpoint, 0): Architecture(n_latents=case["m"], k=case["k"])
        for hookpoint in map(Hookpoint, case["hookpoints"])
    }

    @contextmanager
    def progress(description: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        yield passed if description == "training" else lambda n: None

    held_out = _corpus(np.load(case["text"])[:2])
    return train_coders(
        _model(case["model"]), text, held_out, coders, config, batch_tokens=case["batch_tokens"], progress=progress
    )


def _forward(case: dict[str, Any], passed: Passed) -> None:
    text, hookpoints = _corpus(np.load(case["text"])), [Hookpoint(path) for path in case["hookpoints"]]
    for captured in activations(_model(case["model"]), text, range(text.n_contexts), hookpoints, case["batch_tokens"]):
        passed(len(captured.position))


def _product(case: dict[str, Any], passed: Passed) -> None:
    x = torch.randn(case["batch_tokens"], case["d"]).bfloat16()
    weight = torch.randn(case["m"], case["d"]).bfloat16()
    out = torch.empty(len(x), len(weight), dtype=torch.bfloat16)
    for _ in itertools.count():
        passed(len(x))
        torch.mm(x, weight.T, out=out)


@cache
def _model(path: str) -> LanguageModel:
    return load_model(ModelConfig(path, dtype="bfloat16"))


def _corpus(rows: np.ndarray) -> Corpus:
    """Contexts of equal length, every token of which counts, as it does in sparsify."""
    n, length = rows.shape
    return Corpus(
        tokens=rows.astype(np.int32).reshape(-1),
        context_start=np.arange(n + 1, dtype=np.int64) * length,
        context_document=np.arange(n, dtype=np.int32),
        eligible=np.ones(rows.size, dtype=bool),
    )


if __name__ == "__main__":
    serve(run)
