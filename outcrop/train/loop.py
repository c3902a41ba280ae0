"""Training: one pass over the corpus for all coders at once.

    for each step: a batch of every hookpoint, a step of every coder
        now and then: held-out measures, a checkpoint

Resuming from a checkpoint gives the training that was never interrupted, to the last bit on
one device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from outcrop.coders.placed import PlacedCoder
from outcrop.config import Architecture, TrainConfig
from outcrop.errors import CoderError, StaleError
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Progress, silent
from outcrop.train import checkpoint as checkpoints
from outcrop.train.course import Course
from outcrop.train.evaluate import HeldOut, HeldOutText, TrainingHistory
from outcrop.train.normalise import directions, estimate
from outcrop.train.step import CoderState, continued_state, new_state, restored_state
from outcrop.train.store import ActivationStore
from outcrop.train.stream import Activations, Stream, load_block
from outcrop.train.watch import Clock, Log, Watch
from outcrop.types import ActivationBatch, CoderKey, Place, Reconstruction


@dataclass(frozen=True)
class Trained:
    """A finished coder and how well it reconstructs."""

    placed: PlacedCoder
    reconstruction: Reconstruction


def train_coders(
    model: LanguageModel,
    text: Corpus,
    held_out: Corpus,
    coders: Mapping[CoderKey, Architecture],
    config: TrainConfig,
    *,
    given: Sequence[PlacedCoder] = (),
    seed: int = 0,
    batch_tokens: int = 4_096,
    checkpoint_directory: Path | None = None,
    log: Log = lambda record: None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = silent,
) -> list[Trained]:
    """Train every coder at its place, all from one forward pass of the model.

    Those among `given` are trained further instead of from the start. `batch_tokens` bounds the forward pass. With
    a checkpoint directory, training goes on from its newest checkpoint, or raises StaleError if that was made with
    another text, model or settings. `log` gets one record per held-out measurement and coder, `say` a line where
    a user should know something.
    """
    config = replace(config, tokens=text.n_eligible)  # not those that were asked for
    trained = {placed.key: placed for placed in given}
    coders = {key: trained[key].coder.architecture if key in trained else own for key, own in coders.items()}
    places = _places(coders)
    watched = read_held_out(model, held_out, places, config, batch_tokens, progress)
    stream = activation_stream(model, text, places, config, seed=seed, batch_tokens=batch_tokens, say=say)
    course = Course(stream, model, text, config, batch_tokens)
    made_with = _fingerprint(model, text, coders, given, config, seed, batch_tokens)
    watch = Watch(course.n_steps, config, watched, log, checkpoint_directory, made_with)
    saved = _checkpoint(checkpoint_directory, model, made_with)
    first = saved.step if saved else 0
    with progress("training", text.n_eligible, "tokens", done=course.tokens_before(first)) as advance:
        if saved:
            states = [restored_state(key, coder, config, saved.coders[str(key)]) for key, coder in coders.items()]
        else:
            for placed in given:
                _measured(replace(placed, coder=placed.coder.to(model.device)), watched)
            shown = advance if config.loss == "fvu" else lambda n: None  # an end-to-end step reads the text again
            states = _new_states(coders, config, stream.block(0, shown), trained)
        clock = Clock(saved.seconds if saved else 0.0)
        for step, losses in course.steps(first, states, advance):
            with clock.stopped() as seconds:
                watch.after(step + 1, seconds, states, losses)
    finished = _finished(states, watched, config, progress)
    for one in finished:
        if not one.reconstruction.fvu <= 1:  # nor is it any number
            say(
                f"  {one.placed.key} reconstructs worse than the mean does (FVU {one.reconstruction.fvu:.2f}); train "
                "on more tokens, or with another learning rate or sparsity weight"
            )
    return finished


def activation_stream(
    model: LanguageModel,
    text: Corpus,
    places: Sequence[Place],
    config: TrainConfig,
    *,
    seed: int,
    batch_tokens: int,
    say: Callable[[str], None] = lambda line: None,
) -> Stream:
    """The activations of a text at some places, from where `config.activations` keeps them, if it says where."""
    return Stream(model, text, places, config, seed, batch_tokens, _store(model, text, config, batch_tokens, say))


def _store(
    model: LanguageModel, text: Corpus, config: TrainConfig, batch_tokens: int, say: Callable[[str], None]
) -> ActivationStore | None:
    if config.activations is None:
        return None
    made_with = _hash(model.identity, str(model.module.dtype), text.hash, config.block_tokens, batch_tokens)
    return ActivationStore(Path(config.activations), made_with, say)


def read_held_out(
    model: LanguageModel,
    corpus: Corpus,
    places: Sequence[Place],
    config: TrainConfig,
    batch_tokens: int,
    progress: Progress,
) -> HeldOutText:
    """A held-out text with its activations, which are kept as one block where those of the training text are."""
    store = _store(model, corpus, config, batch_tokens, lambda line: None)
    activations = store.load(0, places, model.device) if store else None
    if activations is None:
        with progress("held-out activations", corpus.n_eligible, "tokens") as advance:
            activations = load_block(model, corpus, range(corpus.n_contexts), places, batch_tokens, advance)
        if store:
            store.save(0, activations, corpus.n_eligible)
    return HeldOutText(model, corpus, activations, config.ce_tokens, batch_tokens)


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
    watched = read_held_out(model, held_out, _places(placed.key for placed in coders), config, batch_tokens, progress)
    coders = [replace(placed, coder=placed.coder.to(model.device)) for placed in coders]
    held = [_measured(placed, watched) for placed in coders]
    return _reconstructed(coders, held, [None] * len(coders), watched, progress)


def _places(keys: Iterable[CoderKey]) -> list[Place]:
    return list(dict.fromkeys(key.place for key in keys))


# Settings of what is measured when and told where, which no weight depends on; and of where activations are kept.
_ONLY_MEASURED = {
    "activations",
    "ce_every_tokens",
    "ce_tokens",
    "checkpoint_every_tokens",
    "evaluate_every_tokens",
    "held_out_tokens",
    "track",
}


def _fingerprint(
    model: LanguageModel,
    text: Corpus,
    coders: Mapping[CoderKey, Architecture],
    given: Sequence[PlacedCoder],
    config: TrainConfig,
    seed: int,
    batch_tokens: int,
) -> str:
    """Of everything that the weights depend on."""
    architectures = {str(key): asdict(coder) for key, coder in coders.items()}
    settings = {name: value for name, value in asdict(config).items() if name not in _ONLY_MEASURED}
    return _hash(
        model.identity, text.hash, architectures, [placed.hash for placed in given], settings, seed, batch_tokens
    )


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _checkpoint(directory: Path | None, model: LanguageModel, made_with: str) -> checkpoints.Checkpoint | None:
    """The one to go on from."""
    saved = checkpoints.latest(directory, model.device) if directory else None
    if saved and saved.made_with != made_with:
        raise StaleError(
            f"{directory} holds a training of another text, model or settings; remove it, or name another directory"
        )
    return saved


def _new_states(
    coders: Mapping[CoderKey, Architecture],
    config: TrainConfig,
    first_block: Activations,
    given: Mapping[CoderKey, PlacedCoder],
) -> list[CoderState]:
    """Coders at their start, centred and scaled by the first block."""
    normalisers = {
        place: estimate(block, config.sink_norm_multiple, config.normalise) for place, block in first_block.items()
    }
    states = []
    for key, coder in coders.items():
        if key in given:
            states.append(continued_state(given[key], config, normalisers[key.place]))
        else:
            states.append(new_state(key, coder, config, normalisers[key.place]))
            _start(states[-1], config, first_block[key.place])
    return states


def _start(state: CoderState, config: TrainConfig, block: ActivationBatch) -> None:
    """Where the latents of a new coder start, if not anywhere and their encoders as their decoders."""
    if not config.start_transposed:
        state.coder.part_encoders(state.key.seed + 1)
    if config.start_within is not None:
        block = block.below(state.normaliser.max_norm)
        source, target = (directions(side, config.start_within) for side in (block.source, block.target))
        state.coder.project(source, target)


def _finished(
    states: Sequence[CoderState], held_out: HeldOutText, config: TrainConfig, progress: Progress
) -> list[Trained]:
    dead_after = config.tokens_until_dead
    histories = [TrainingHistory(state.trained_tokens, dead_after, state.dead_share(dead_after)) for state in states]
    coders = [state.placed() for state in states]
    return _reconstructed(coders, [held_out.measure(placed) for placed in coders], histories, held_out, progress)


def _measured(placed: PlacedCoder, held_out: HeldOutText) -> HeldOut:
    """Of a given coder, if it fits its place."""
    batch = held_out.activations[placed.key.place]
    placed.require_widths(batch.source.shape[1], batch.target.shape[1])
    held = held_out.measure(placed)
    if not held.fvu[-1] <= 1:  # nor is it any number
        raise CoderError(
            f"the coder's reconstruction of {placed.key.target} is worse than the mean (FVU {held.fvu[-1]:.2f}); it "
            "was made for another hookpoint, side or model, or for activations that were scaled"
        )
    return held


def _reconstructed(
    coders: Sequence[PlacedCoder],
    held: Sequence[HeldOut],
    histories: Sequence[TrainingHistory | None],
    held_out: HeldOutText,
    progress: Progress,
) -> list[Trained]:
    with progress("cross-entropy", held_out.n_ce_tokens, "tokens") as advance:
        found = held_out.reconstructions(coders, held, histories, advance)
    return [Trained(*one) for one in zip(coders, found, strict=True)]
