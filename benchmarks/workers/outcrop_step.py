"""Our training step, and the floor: the encoder's product alone, in bfloat16, into a reused buffer."""

from __future__ import annotations

from typing import Any

import torch
from serve import Step, batches, kept_bytes, serve

from outcrop.config import Architecture, TrainConfig
from outcrop.train.normalise import estimate
from outcrop.train.step import new_state, train_step
from outcrop.types import ActivationBatch, CoderKey, Hookpoint


def open_case(case: dict[str, Any]) -> tuple[Step, Any]:
    return _floor(case) if case["optimizer"] == "floor" else _training(case)


def _training(case: dict[str, Any]) -> tuple[Step, Any]:
    following, place = batches(case["inputs"]), Hookpoint("synthetic")
    config = TrainConfig(optimizer=case["optimizer"], auxk_weight=0.0)
    first = _batch(following())
    state = new_state(
        CoderKey("benchmark", place, place, 0),
        Architecture(n_latents=case["m"], k=case["k"]),
        config,
        estimate(first, None),
    )
    at = 0

    def step() -> None:
        nonlocal at
        at += 1
        train_step(state, _batch(following()), at, 1000, config)

    return step, lambda: kept_bytes(list(state.coder.parameters()), state.optimizers)


def _floor(case: dict[str, Any]) -> tuple[Step, Any]:
    x = batches(case["inputs"])().bfloat16()
    weight = torch.randn(case["m"], x.shape[1]).bfloat16()
    out = torch.empty(len(x), len(weight), dtype=torch.bfloat16)
    return lambda: torch.mm(x, weight.T, out=out), lambda: 0


def _batch(x: torch.Tensor) -> ActivationBatch:
    return ActivationBatch(x, x, torch.arange(len(x)))


if __name__ == "__main__":
    serve(open_case)
