"""Training: one pass over the corpus for all coders at once.

    for each step: a batch of every hookpoint, a step of every coder
        now and then: held-out measures, a checkpoint

Resuming from a checkpoint gives the training that was never interrupted, to the last bit on
one device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from outcrop.coders.weights import PlacedCoder
from outcrop.config import CoderConfig, TrainConfig
from outcrop.errors import CoderError, StaleError
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance, Progress, silent
from outcrop.train import checkpoint as checkpoints
from outcrop.train.evaluate import TrainingHistory, cross_entropy, measure, reconstruction
from outcrop.train.normalise import estimate
from outcrop.train.step import CoderState, new_state, restored_state, train_step
from outcrop.train.stream import BlockActivations, Stream, load_block
from outcrop.types import CoderKey, Hookpoint, Reconstruction

Log = Callable[[dict[str, Any]], None]
Activations = dict[Hookpoint, BlockActivations]


@dataclass(frozen=True)
class Trained:
    """A finished coder and how well it reconstructs."""

    placed: PlacedCoder
    reconstruction: Reconstruction


def train_coders(
    model: LanguageModel,
    text: Corpus,
    held_out: Corpus,
    coders: Mapping[CoderKey, CoderConfig],
    config: TrainConfig,
    *,
    seed: int = 0,
    batch_tokens: int = 4_096,
    checkpoint_directory: Path | None = None,
    log: Log = lambda record: None,
    progress: Progress = silent,
) -> list[Trained]:
    """Train every coder on its hookpoint, all from one forward pass of the model.

    `batch_tokens` bounds that forward pass. With a checkpoint directory, training goes on from
    its newest checkpoint, or raises StaleError if that was made with another text, model or
    settings. `log` gets one record per held-out measurement and coder.
    """
    hookpoints = tuple(dict.fromkeys(key.source for key in coders))
    with progress("held-out activations", held_out.n_eligible, "tokens") as advance:
        held = load_block(model, held_out, range(held_out.n_contexts), hookpoints, batch_tokens, advance)
    stream = Stream(model, text, hookpoints, config, seed, batch_tokens)
    made_with = _fingerprint(model, text, coders, config, seed, batch_tokens)
    watch = _Watch(stream.n_steps, config, held, log, checkpoint_directory, made_with)
    saved = _checkpoint(checkpoint_directory, model, made_with)
    first = saved.step if saved else 0
    with progress("training", text.n_eligible, "tokens", done=stream.tokens_before(first)) as advance:
        if saved:
            states = [restored_state(key, coder, config, saved.coders[str(key)]) for key, coder in coders.items()]
        else:
            states = _new_states(coders, config, stream.block(0, advance))
        limits = {state.key.source: state.normaliser.max_norm for state in states}
        for step, batch in stream.steps(first, limits, advance):
            losses = [train_step(s, batch[s.key.source].source, step, stream.n_steps, config) for s in states]
            watch.after(step + 1, states, losses)
    with progress("cross-entropy", len(states) * config.ce_tokens, "tokens") as advance:
        return [_finished(state, model, text, held_out, held, config, batch_tokens, advance) for state in states]


def evaluate_coders(
    model: LanguageModel,
    held_out: Corpus,
    coders: Sequence[PlacedCoder],
    config: TrainConfig,
    *,
    batch_tokens: int = 4_096,
    progress: Progress = silent,
) -> list[Trained]:
    """Measure coders that someone else trained. Raises CoderError where one was plainly made for another place."""
    hookpoints = tuple(dict.fromkeys(placed.key.source for placed in coders))
    with progress("held-out activations", held_out.n_eligible, "tokens") as advance:
        held = load_block(model, held_out, range(held_out.n_contexts), hookpoints, batch_tokens, advance)
    with progress("cross-entropy", len(coders) * config.ce_tokens, "tokens") as advance:
        return [
            _measured(placed, None, model, held_out, _fitting(placed, held), config, batch_tokens, advance)
            for placed in coders
        ]


@dataclass(frozen=True)
class _Watch:
    """Measures and saves where it is time."""

    n_steps: int
    config: TrainConfig
    held: Activations
    log: Log
    checkpoint_directory: Path | None
    made_with: str

    def after(self, step: int, states: Sequence[CoderState], losses: Sequence[float]) -> None:
        if self._is_time(step, self.config.evaluate_every_tokens):
            for state, loss in zip(states, losses, strict=True):
                self.log(self._record(step, state, loss))
        if self.checkpoint_directory and self._is_time(step, self.config.checkpoint_every_tokens):
            saved = {str(state.key): state.state_dict() for state in states}
            checkpoints.save(checkpoints.Checkpoint(step, self.made_with, saved), self.checkpoint_directory)

    def _is_time(self, step: int, every_tokens: int) -> bool:
        return step % max(1, round(every_tokens / self.config.batch_tokens)) == 0 or step == self.n_steps

    def _record(self, step: int, state: CoderState, loss: float) -> dict[str, Any]:
        normaliser = state.normaliser
        held = measure(state.coder, normaliser(self.held[state.key.source].below(normaliser.max_norm).values.float()))
        return {
            "step": step,
            "steps": self.n_steps,
            "coder": str(state.key),
            "train_fvu": loss,
            "fvu": held.fvu[-1],
            "l0": sum(held.l0),
            "dead_share": state.dead_share(self.config.dead_after_tokens),
            "unfired_share": held.unfired_share,
            "gamma": normaliser.gamma,
        }


# Settings of when and on what to measure, which no weight depends on.
_ONLY_MEASURED = {
    "ce_tokens",
    "checkpoint_every_tokens",
    "dead_after_tokens",
    "evaluate_every_tokens",
    "held_out_tokens",
}


def _fingerprint(
    model: LanguageModel,
    text: Corpus,
    coders: Mapping[CoderKey, CoderConfig],
    config: TrainConfig,
    seed: int,
    batch_tokens: int,
) -> str:
    """Of everything that the weights depend on."""
    architectures = {str(key): asdict(coder) for key, coder in coders.items()}
    settings = {name: value for name, value in asdict(config).items() if name not in _ONLY_MEASURED}
    everything = [model.identity, text.hash, architectures, settings, seed, batch_tokens]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]


def _checkpoint(directory: Path | None, model: LanguageModel, made_with: str) -> checkpoints.Checkpoint | None:
    """The one to go on from."""
    saved = checkpoints.latest(directory, model.device) if directory else None
    if saved and saved.made_with != made_with:
        raise StaleError(
            f"{directory} holds a training of another text, model or settings; remove it, or name another directory"
        )
    return saved


def _new_states(
    coders: Mapping[CoderKey, CoderConfig], config: TrainConfig, first_block: Activations
) -> list[CoderState]:
    """Coders at their start, centred and scaled by the first block."""
    normalisers = {
        hookpoint: estimate(block.values, config.sink_norm_multiple) for hookpoint, block in first_block.items()
    }
    return [new_state(key, coder, config, normalisers[key.source]) for key, coder in coders.items()]


def _finished(
    state: CoderState,
    model: LanguageModel,
    text: Corpus,
    held_out: Corpus,
    held: Activations,
    config: TrainConfig,
    batch_tokens: int,
    advance: Advance,
) -> Trained:
    history = TrainingHistory(text.n_eligible, config.dead_after_tokens, state.dead_share(config.dead_after_tokens))
    values = held[state.key.source].values
    return _measured(state.placed(), history, model, held_out, values, config, batch_tokens, advance)


def _measured(
    placed: PlacedCoder,
    history: TrainingHistory | None,
    model: LanguageModel,
    held_out: Corpus,
    values: Float[Tensor, "n d"],
    config: TrainConfig,
    batch_tokens: int,
    advance: Advance,
) -> Trained:
    if placed.max_norm is not None:
        values = values[values.float().norm(dim=1) <= placed.max_norm]
    ce = cross_entropy(model, placed, held_out, values, config.ce_tokens, batch_tokens, advance)
    return Trained(placed, reconstruction(placed, values, ce, history))


def _fitting(placed: PlacedCoder, held: Activations) -> Float[Tensor, "n d"]:
    """The raw activations at the coder's place, if it fits there."""
    activations = held[placed.key.source].below(placed.max_norm)
    width = activations.values.shape[1]
    if width != placed.coder.d_in:
        raise CoderError(
            f"the coder reads activations {placed.coder.d_in} wide, but {placed.key.source} is {width} wide; "
            "name the hookpoint and the model that it was trained on"
        )
    fvu = measure(placed.coder, activations.values).fvu[-1]
    if fvu > 1:
        raise CoderError(
            f"the coder's reconstruction of {placed.key.source} is worse than the mean (FVU {fvu:.2f}); it was "
            "made for another hookpoint, side or model, or for activations that were scaled"
        )
    return held[placed.key.source].values
