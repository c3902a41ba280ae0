"""Our training step on one large batch, its gradients computed micro-batch by micro-batch."""

from __future__ import annotations

from typing import Any

import torch
from serve import Step, batches, kept_bytes, serve

from outcrop.config import Architecture, TrainConfig
from outcrop.train.normalise import estimate
from outcrop.train.step import new_state, train_step
from outcrop.types import ActivationBatch, CoderKey, Hookpoint


def open_case(case: dict[str, Any]) -> tuple[Step, Any]:
    x, place = batches(case["inputs"])(), Hookpoint("synthetic")
    batch = ActivationBatch(x, x, torch.arange(len(x)))
    config = TrainConfig(optimizer=case["optimizer"], micro_batch_tokens=case["micro_batch_tokens"], auxk_weight=0.0)
    architecture = Architecture(selection=case["selection"], n_latents=case["m"], k=case["k"])
    state = new_state(CoderKey("benchmark", place, place, 0), architecture, config, estimate(batch, None))

    def step() -> None:
        train_step(state, batch, 1, 1000, config)

    return step, lambda: kept_bytes(list(state.coder.parameters()), state.optimizers)


if __name__ == "__main__":
    serve(open_case)
