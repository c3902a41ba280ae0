"""One training step of one coder, and the state that it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import PlacedCoder, fold
from outcrop.config import CoderConfig, TrainConfig
from outcrop.train.normalise import Normaliser
from outcrop.train.optim import optimizers
from outcrop.train.schedules import lr_factor
from outcrop.types import CoderKey


@dataclass
class CoderState:
    """A coder in training. It lives in normalised space; `placed` gives it for raw activations."""

    key: CoderKey
    coder: SparseStack
    normaliser: Normaliser
    optimizers: list[torch.optim.Optimizer]
    since_fired: Int64[Tensor, "L M"]  # tokens since a latent last fired

    def placed(self) -> PlacedCoder:
        folded = fold(self.coder, self.normaliser.mean, self.normaliser.scale).requires_grad_(False)
        return PlacedCoder(self.key, folded, self.normaliser.max_norm)

    def dead_share(self, dead_after_tokens: int) -> list[float]:
        """Of each layer: latents that have not fired for so many tokens."""
        return (self.since_fired >= dead_after_tokens).cpu().double().mean(dim=1).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {
            "coder": self.coder.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "since_fired": self.since_fired,
            "mean": self.normaliser.mean,
            "scale": self.normaliser.scale,
            "max_norm": self.normaliser.max_norm,
        }


def new_state(key: CoderKey, config: CoderConfig, train: TrainConfig, normaliser: Normaliser) -> CoderState:
    """Freshly initialised from the key's seed."""
    device = normaliser.mean.device
    generator = torch.Generator().manual_seed(key.seed)
    width = len(normaliser.mean)
    coder = SparseStack(width, config.n_latents, config.k, config.layers, config.reads, generator).to(device)
    since_fired = torch.zeros(config.layers, config.n_latents, dtype=torch.long, device=device)
    return CoderState(key, coder, normaliser, optimizers(coder, train, config.n_latents), since_fired)


def restored_state(key: CoderKey, config: CoderConfig, train: TrainConfig, saved: dict[str, Any]) -> CoderState:
    """As `CoderState.state_dict` gave it."""
    normaliser = Normaliser(saved["mean"], saved["scale"], saved["max_norm"])
    state = new_state(key, config, train, normaliser)
    state.coder.load_state_dict(saved["coder"])
    for optimizer, optimizer_state in zip(state.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    state.since_fired.copy_(saved["since_fired"])
    return state


def train_step(state: CoderState, x: Float[Tensor, "n d"], step: int, n_steps: int, config: TrainConfig) -> float:
    """One step on raw activations; gives the batch's FVU (the normalised mean squared error)."""
    x = state.normaliser(x)
    reconstruction = state.coder.decoder_bias.expand_as(x)
    since_fired = state.since_fired + len(x)
    for i, layer in enumerate(state.coder.run(x)):
        reconstruction = reconstruction + layer.output
        since_fired[i, layer.indices[layer.values > 0]] = 0
    loss = (x - reconstruction).pow(2).mean()
    loss.backward()
    _update(state, lr_factor(step, n_steps, config.warmup_share))
    state.since_fired = since_fired
    return loss.item()


def _update(state: CoderState, factor: float) -> None:
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor
        optimizer.step()
        optimizer.zero_grad()
    state.coder.normalise_decoders()
