"""One training step of one coder, and the state that it moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from outcrop import kernels
from outcrop.coders.folding import Scaling, fold
from outcrop.coders.losses import coder_loss
from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import LayerOutput, SparseStack
from outcrop.config import Architecture, TrainConfig
from outcrop.train import parallel
from outcrop.train.normalise import Normaliser
from outcrop.train.optim import averaged, optimizers
from outcrop.train.schedules import k_at, lr_factor
from outcrop.types import ActivationBatch, CoderKey


@dataclass
class CoderState:
    """A coder in training. It lives in normalised space; `placed` gives it for raw activations."""

    key: CoderKey
    coder: SparseStack
    normaliser: Normaliser
    optimizers: list[torch.optim.Optimizer]
    since_fired: Int64[Tensor, "L M"]  # tokens since a latent last fired
    trained_tokens: int = 0

    @contextmanager
    def evaluated(self) -> Iterator[SparseStack]:
        """Within, the coder is as it would be saved: averaged weights, inference's selection."""
        with averaged(self.optimizers):
            self.coder.eval()
            yield self.coder
            self.coder.train()

    def placed(self) -> PlacedCoder:
        with self.evaluated() as coder:
            folded = fold(coder, self.normaliser.source, self.normaliser.target).requires_grad_(False)
        return PlacedCoder(self.key, folded, self.normaliser.max_norm)

    def k(self, step: int, n_steps: int, config: TrainConfig) -> int:
        """Of each layer, at a step."""
        return k_at(step, n_steps, self.coder.architecture.k_per_layer, config.k_start, config.k_decay_share)

    def dead(self, dead_after_tokens: int) -> Bool[Tensor, "L M"]:
        return self.since_fired >= dead_after_tokens

    def dead_share(self, dead_after_tokens: int) -> list[float | None]:
        """Of each layer: latents that have not fired for so many tokens; None before there were as many."""
        if self.trained_tokens < dead_after_tokens:
            return [None] * self.coder.n_layers
        return list(self.dead(dead_after_tokens).cpu().double().mean(dim=1).tolist())

    def state_dict(self) -> dict[str, Any]:
        return {
            "coder": self.coder.state_dict(),
            "read_scale": self.coder.read_scale,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "since_fired": self.since_fired,
            "trained_tokens": self.trained_tokens,
            "source": vars(self.normaliser.source),
            "target": vars(self.normaliser.target),
            "max_norm": self.normaliser.max_norm,
        }


def new_state(key: CoderKey, architecture: Architecture, train: TrainConfig, normaliser: Normaliser) -> CoderState:
    """Freshly initialised from the key's seed."""
    generator = torch.Generator().manual_seed(key.seed)
    d_out = len(normaliser.target.mean) if key.transcodes else None
    return _state(key, SparseStack(architecture, len(normaliser.source.mean), d_out, generator), train, normaliser)


def continued_state(given: PlacedCoder, train: TrainConfig, normaliser: Normaliser) -> CoderState:
    """A coder for raw activations, brought to normalised space, to be trained further."""
    normaliser = Normaliser(normaliser.source, normaliser.target, given.max_norm)
    unfolded = fold(given.coder, normaliser.source.inverse(), normaliser.target.inverse())
    for layer in unfolded.layers:
        layer.absorb_norms()
    return _state(given.key, unfolded.requires_grad_(True), train, normaliser)


def restored_state(key: CoderKey, architecture: Architecture, train: TrainConfig, saved: dict[str, Any]) -> CoderState:
    """As `CoderState.state_dict` gave it."""
    source, target = Scaling(**saved["source"]), Scaling(**saved["target"])
    state = new_state(key, architecture, train, Normaliser(source, target, saved["max_norm"]))
    state.coder.load_state_dict(saved["coder"])
    state.coder.read_scale = saved["read_scale"]
    for optimizer, optimizer_state in zip(state.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    state.since_fired.copy_(saved["since_fired"])
    state.trained_tokens = saved["trained_tokens"]
    return state


def _state(key: CoderKey, coder: SparseStack, train: TrainConfig, normaliser: Normaliser) -> CoderState:
    device = normaliser.source.mean.device
    coder = coder.to(device).train()
    for parameter in coder.parameters():
        parameter.data = kernels.in_large_pages(parameter.data)
    since_fired = torch.zeros(coder.n_layers, coder.latents_per_layer, dtype=torch.long, device=device)
    return CoderState(key, coder, normaliser, optimizers(coder, train), since_fired)


def train_step(state: CoderState, batch: ActivationBatch, step: int, n_steps: int, config: TrainConfig) -> float:
    """One step on raw activations; gives the batch's FVU (the normalised mean squared error).

    Where several processes train together, each computes its part of the batch.
    """
    n = len(batch.position)
    x, y = state.normaliser(parallel.part(batch))
    k = state.k(step, n_steps, config)
    dead = state.dead(config.tokens_until_dead)
    fired = torch.zeros_like(dead)
    fvu = torch.zeros((), device=x.device)
    size = config.micro_batch_tokens or max(1, len(x))
    for part_x, part_y in zip(x.split(size), y.split(size), strict=True):
        outputs = list(state.coder.run(part_x, k))
        share = len(part_x) / n
        loss, error = coder_loss(state.coder, part_y, outputs, dead, k, config)
        (share * loss).backward()
        fvu += share * error
        fired |= which_fired(state.coder, outputs)
    update(state, fired, n, step, n_steps, config)
    return float(parallel.summed(fvu))


def update(
    state: CoderState, fired: Bool[Tensor, "L M"], n_tokens: int, step: int, n_steps: int, config: TrainConfig
) -> None:
    """Move the parameters by the gradients that have been accumulated in them over a batch of `n_tokens`."""
    parallel.sum_gradients(state.coder.parameters())
    state.since_fired = (state.since_fired + n_tokens).masked_fill(parallel.any_of(fired), 0)
    state.trained_tokens += n_tokens
    if config.clip is not None:
        nn.utils.clip_grad_norm_(state.coder.parameters(), config.clip)
    factor = lr_factor(step, n_steps, config.warmup_share, decays=config.optimizer != "signum")
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor
        optimizer.step()
        optimizer.zero_grad()
    state.coder.normalise_decoders()


def which_fired(coder: SparseStack, outputs: list[LayerOutput]) -> Bool[Tensor, "L M"]:
    return torch.stack([output.codes.count(coder.latents_per_layer) > 0 for output in outputs])
