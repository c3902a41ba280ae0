"""The stream of activations that coders are trained on, shuffled block by block.

A block is a range of contexts with about `block_tokens` eligible tokens. Its activations are
computed, permuted by a generator of (seed, block), and dealt into batches of nearly equal
size, so that no token is dropped and any block can be computed again when training resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from outcrop.config import TrainConfig
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance
from outcrop.train import parallel
from outcrop.train.store import ActivationStore
from outcrop.types import ActivationBatch, Place

Activations = dict[Place, ActivationBatch]


@dataclass(frozen=True)
class Block:
    """A range of contexts that is shuffled as one."""

    index: int
    contexts: range
    n_batches: int


def plan_blocks(corpus: Corpus, block_tokens: int, batch_tokens: int) -> list[Block]:
    """Blocks of `block_tokens` or just above, the last one shorter; known before anything is computed."""
    per_context = np.add.reduceat(corpus.eligible, corpus.context_start[:-1], dtype=np.int64)
    blocks: list[Block] = []
    start = tokens = 0
    for context, n in enumerate(per_context):
        tokens += int(n)
        if tokens >= block_tokens or (tokens and context == corpus.n_contexts - 1):
            blocks.append(Block(len(blocks), range(start, context + 1), max(1, round(tokens / batch_tokens))))
            start, tokens = context + 1, 0
    return blocks


def load_block(
    model: LanguageModel,
    corpus: Corpus,
    contexts: range,
    places: Sequence[Place],
    batch_tokens: int,
    advance: Advance,
) -> Activations:
    """The contexts' activations at every place, from one pass of the language model."""
    hookpoints = list(dict.fromkeys(hookpoint for place in places for hookpoint in place))
    pieces = []
    for captured in parallel.activations(model, corpus, contexts, hookpoints, batch_tokens):
        pieces.append(captured)
        advance(len(captured.position))
    position = torch.from_numpy(np.concatenate([piece.position for piece in pieces]))
    at = {hookpoint: torch.cat([piece.at.pop(hookpoint) for piece in pieces]) for hookpoint in hookpoints}
    return {(a, b): ActivationBatch(at[a], at[b], position) for a, b in places}


class Stream:
    """The training text's activations, step by step.

    A step gives one batch per place; there are `n_steps` of them, known from the start.
    """

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        places: Sequence[Place],
        config: TrainConfig,
        seed: int,
        batch_tokens: int,
        store: ActivationStore | None = None,
    ) -> None:
        """With a store, a block that is there is read, and one that is not is kept there."""
        self._model, self._corpus, self._places = model, corpus, places
        self._seed, self._batch_tokens, self._store = seed, batch_tokens, store
        self._blocks = plan_blocks(corpus, config.block_tokens, config.batch_tokens)
        self._held: tuple[int, Activations] | None = None
        self.n_blocks, self.n_tokens = len(self._blocks), corpus.n_eligible
        self.n_steps = sum(block.n_batches for block in self._blocks)

    @property
    def device(self) -> torch.device:
        return self._model.device

    def block(self, index: int, advance: Advance) -> Activations:
        """The activations of a block, unshuffled; the last one asked for is held."""
        if self._held is None or self._held[0] != index:
            self._held = None  # so that two blocks are never held at once
            self._held = index, self._stored(index, advance) or self._computed(index, advance)
        return self._held[1]

    def _stored(self, index: int, advance: Advance) -> Activations | None:
        block = self._store.load(index, self._places, self._model.device) if self._store else None
        if block:
            advance(len(block[self._places[0]].position))
        return block

    def _computed(self, index: int, advance: Advance) -> Activations:
        contexts = self._blocks[index].contexts
        block = load_block(self._model, self._corpus, contexts, self._places, self._batch_tokens, advance)
        if self._store:
            self._store.save(index, block, self._corpus.n_eligible)
        return block

    def tokens_before(self, step: int) -> int:
        """Eligible tokens of the blocks that end before a step."""
        start = self._corpus.context_start
        return sum(
            int(self._corpus.eligible[start[block.contexts.start] : start[block.contexts.stop]].sum())
            for block, first in self._numbered()
            if first + block.n_batches <= step
        )

    def steps(
        self, first: int, wanted: Sequence[tuple[Place, float | None]], advance: Advance
    ) -> Iterator[tuple[int, dict[tuple[Place, float | None], ActivationBatch]]]:
        """The steps from `first` on: of each place a batch without the tokens that exceed a norm."""
        different = list(dict.fromkeys(wanted))
        for block, first_of_block in self._numbered():
            if first_of_block + block.n_batches <= first:
                continue
            loaded = self.block(block.index, advance)
            streams = [batches(loaded[place].below(max_norm), block, self._seed) for place, max_norm in different]
            for step, batch in enumerate(zip(*streams, strict=True), start=first_of_block):
                if step >= first:
                    yield step, dict(zip(different, batch, strict=True))

    def _numbered(self) -> Iterator[tuple[Block, int]]:
        """Every block with the number of its first step."""
        step = 0
        for block in self._blocks:
            yield block, step
            step += block.n_batches


def batches(activations: ActivationBatch, block: Block, seed: int) -> Iterator[ActivationBatch]:
    """The block's tokens, permuted, in `n_batches` batches whose sizes differ by at most one."""
    order = torch.from_numpy(np.random.default_rng([seed, block.index]).permutation(len(activations.position)))
    for part in order.tensor_split(block.n_batches):
        there = part.to(activations.source.device)
        source = activations.source[there].float()
        one = activations.target is activations.source
        target = source if one else activations.target[there].float()
        yield ActivationBatch(source, target, activations.position[part])
