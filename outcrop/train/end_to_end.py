"""End-to-end training: what the language model loses, with the coders in it, is what they learn from.

    ce   mean next-token cross-entropy of the spliced model
    kl   mean KL(clean ‖ spliced) of the next-token distributions

over predictions made at eligible positions. Coders of one setting and seed are spliced in together, at all their
hookpoints at once, at eligible positions that are no sinks (Braun et al. 2024, arXiv:2405.12241).
AuxK and the selections' penalties are added as ever; the error that AuxK models is that of the reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from outcrop.coders.losses import side_loss
from outcrop.coders.placed import PlacedCoder, spliced
from outcrop.coders.stack import LayerOutput
from outcrop.config import TrainConfig
from outcrop.model.activations import PaddedContexts, padded_batches
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.train import parallel
from outcrop.train.evaluate import logits, predictions
from outcrop.train.step import CoderState, update, which_fired
from outcrop.train.stream import Block
from outcrop.types import CoderKey


@dataclass
class _Spliced:
    """A coder in the model, and what it did in the forward pass under way."""

    state: CoderState
    k: int
    dead: Bool[Tensor, "L M"]
    fired: Bool[Tensor, "L M"]
    n_tokens: int = 0
    y: Tensor | None = None
    outputs: list[LayerOutput] = field(default_factory=list)

    def __call__(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """The reconstruction of raw activations, in raw terms."""
        source, target = self.state.normaliser.source, self.state.normaliser.target
        self.y = target(y.detach())
        self.outputs = list(self.state.coder.run(source(x), self.k))
        self.fired |= which_fired(self.state.coder, self.outputs)
        self.n_tokens += len(x)
        return target.mean + target.scale * self.outputs[-1].reconstruction

    def side_loss(self, config: TrainConfig) -> Tensor:
        assert self.y is not None, "the forward pass went through the coder"
        return side_loss(self.y, self.outputs, self.dead, config)


def end_to_end_step(
    model: LanguageModel,
    text: Corpus,
    block: Block,
    states: Sequence[CoderState],
    n_steps: int,
    config: TrainConfig,
    batch_tokens: int,
) -> list[float]:
    """One step of every coder on a block's contexts; gives the loss of each coder's group."""
    micro = min(batch_tokens, config.micro_batch_tokens or batch_tokens)
    batches = list(padded_batches(text, block.contexts, micro))
    n_predictions = sum(_n_predictions(batch, text) for batch in batches)
    losses: dict[CoderKey, float] = {}
    for group in _groups(states):
        coders = [_begun(state, block.index, n_steps, config) for state in group]
        own = batches[parallel.rank() :: parallel.size()]
        loss = sum(_backward(model, text, batch, coders, n_predictions, config) for batch in own)
        loss = float(parallel.summed(torch.tensor(float(loss), device=model.device)))
        for coder in coders:
            n_tokens = int(parallel.summed(torch.tensor(float(coder.n_tokens), device=model.device)))
            update(coder.state, coder.fired, n_tokens, block.index, n_steps, config)
            losses[coder.state.key] = loss
    return [losses[state.key] for state in states]


def _groups(states: Sequence[CoderState]) -> Iterator[list[CoderState]]:
    """The coders that are spliced in together."""
    for _, group in groupby(sorted(states, key=_setting), key=_setting):
        yield list(group)


def _setting(state: CoderState) -> tuple[str, int]:
    return state.key.setting, state.key.seed


def _begun(state: CoderState, step: int, n_steps: int, config: TrainConfig) -> _Spliced:
    dead = state.dead(config.tokens_until_dead)
    return _Spliced(state, state.k(step, n_steps, config), dead, torch.zeros_like(dead))


def _n_predictions(batch: PaddedContexts, text: Corpus) -> int:
    return int(predictions(batch, torch.from_numpy(batch.eligible(text))).sum())


def _backward(
    model: LanguageModel,
    text: Corpus,
    batch: PaddedContexts,
    coders: Sequence[_Spliced],
    n_predictions: int,
    config: TrainConfig,
) -> float:
    """Add the gradients of one forward pass; gives its part of the loss."""
    eligible = torch.from_numpy(batch.eligible(text)).to(model.device)
    tokens, wanted = batch.tokens.to(model.device), predictions(batch, eligible)
    with ExitStack() as stack:
        for coder in coders:
            placed = PlacedCoder(coder.state.key, coder.state.coder, coder.state.normaliser.max_norm)
            stack.enter_context(spliced(model, placed, coder, eligible))
        changed = logits(model, tokens, wanted).float()
    loss = _loss(model, tokens, wanted, changed, config) / n_predictions
    share = int(wanted.sum()) / n_predictions
    (loss + share * sum(coder.side_loss(config) for coder in coders)).backward()
    return float(loss.detach())


def _loss(
    model: LanguageModel,
    tokens: Int[Tensor, "b t"],
    wanted: Bool[Tensor, "b t-1"],
    changed: Float[Tensor, "n v"],
    config: TrainConfig,
) -> Float[Tensor, ""]:
    """Summed over the predictions."""
    if config.loss == "ce":
        return F.cross_entropy(changed, tokens[:, 1:][wanted], reduction="sum")
    with torch.no_grad():
        clean = logits(model, tokens, wanted).float().log_softmax(-1)
    return F.kl_div(changed.log_softmax(-1), clean, reduction="sum", log_target=True)
