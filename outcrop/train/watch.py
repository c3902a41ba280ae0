"""What is measured, logged and saved while a training goes on, and how long its steps take without that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outcrop.config import TrainConfig
from outcrop.train import checkpoint as checkpoints
from outcrop.train import parallel
from outcrop.train.evaluate import HeldOutText, measure
from outcrop.train.normalise import effective_rank, gamma
from outcrop.train.step import CoderState
from outcrop.types import Place

Log = Callable[[dict[str, Any]], None]


class Clock:
    """How long the steps take, and what they read; not what is measured and saved between them."""

    def __init__(self, seconds: float) -> None:
        """It goes on from so many seconds."""
        self._seconds, self._since = seconds, time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[float]:
        """Gives the seconds so far."""
        self._seconds += time.perf_counter() - self._since
        yield self._seconds
        self._since = time.perf_counter()


@dataclass(frozen=True)
class Watch:
    """Measures and saves where it is time."""

    n_steps: int
    config: TrainConfig
    held_out: HeldOutText
    log: Log
    checkpoint_directory: Path | None
    made_with: str
    _spectra: dict[tuple[Place, float | None], dict[str, float]] = field(default_factory=dict)

    def after(self, step: int, seconds: float, states: Sequence[CoderState], losses: Sequence[float]) -> None:
        if not parallel.is_first():
            return
        if self._is_time(step, self.config.evaluate_every_tokens):
            for record in self._records(step, seconds, states, losses):
                self.log(record)
        if self.checkpoint_directory and self._is_time(step, self.config.checkpoint_every_tokens):
            saved = {str(state.key): state.state_dict() for state in states}
            checkpoints.save(checkpoints.Checkpoint(step, seconds, self.made_with, saved), self.checkpoint_directory)

    def _is_time(self, step: int, every_tokens: int) -> bool:
        return step % max(1, round(every_tokens / self.config.batch_tokens)) == 0 or step == self.n_steps

    def _records(
        self, step: int, seconds: float, states: Sequence[CoderState], losses: Sequence[float]
    ) -> list[dict[str, Any]]:
        records = [self._record(step, seconds, *one) for one in zip(states, losses, strict=True)]
        every = self.config.ce_every_tokens
        if every is not None and self._is_time(step, every):
            ces = self.held_out.cross_entropies([state.placed() for state in states], lambda n: None)
            for record, ce in zip(records, ces, strict=True):
                record |= {"ce_recovered": ce.recovered, "kl": ce.kl}
        return records

    def _record(self, step: int, seconds: float, state: CoderState, loss: float) -> dict[str, Any]:
        batch = self.held_out.activations[state.key.place].below(state.normaliser.max_norm)
        with state.evaluated() as coder:
            held = measure(coder, *state.normaliser(batch))
        return {
            "step": step,
            "steps": self.n_steps,
            "tokens": state.trained_tokens,
            "seconds": seconds,
            "coder": str(state.key),
            "train_loss": loss,
            "fvu": held.fvu[-1],
            "l0": sum(held.l0),
            "dead_share": state.dead_share(self.config.tokens_until_dead),
            "unfired_share": held.unfired_share,
            "rate_histogram": held.rate_histogram,
            "held_out_tokens": len(batch.source),
            **self._spectrum(state.key.place, state.normaliser.max_norm),
        }

    def _spectrum(self, place: Place, max_norm: float | None) -> dict[str, float]:
        """Of the held-out activations that a coder reads; taken once."""
        if (place, max_norm) not in self._spectra:
            source = self.held_out.activations[place].below(max_norm).source
            self._spectra[place, max_norm] = {"gamma": gamma(source), "effective_rank": effective_rank(source)}
        return self._spectra[place, max_norm]
