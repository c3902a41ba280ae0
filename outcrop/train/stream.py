"""The stream of activations that coders are trained on, shuffled block by block.

A block is a range of contexts with about `block_tokens` eligible tokens. Its activations are
computed, permuted by a generator of (seed, block), and dealt into batches of nearly equal
size, so that no token is dropped and any block can be computed again when training resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from outcrop.config import TrainConfig
from outcrop.model.activations import activations
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance
from outcrop.types import ActivationBatch, Hookpoint


@dataclass(frozen=True)
class Block:
    """A range of contexts that is shuffled as one."""

    index: int
    contexts: range
    n_batches: int


@dataclass(frozen=True)
class BlockActivations:
    """What one hookpoint gave in one block, in the corpus' order of batches."""

    values: Float[Tensor, "n d"]
    position: Int64[Tensor, "n"]

    def below(self, max_norm: float | None) -> BlockActivations:
        """Without the tokens whose norm makes them attention sinks."""
        if max_norm is None:
            return self
        keep = self.values.float().norm(dim=1) <= max_norm
        return BlockActivations(self.values[keep], self.position[keep])


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
    hookpoints: Sequence[Hookpoint],
    batch_tokens: int,
    advance: Advance,
) -> dict[Hookpoint, BlockActivations]:
    """The block's activations at every hookpoint, from one pass of the language model."""
    pieces = []
    for captured in activations(model, corpus, contexts, hookpoints, batch_tokens):
        pieces.append(captured)
        advance(len(captured.position))
    position = torch.from_numpy(np.concatenate([piece.position for piece in pieces]))
    return {
        hookpoint: BlockActivations(torch.cat([piece.at[hookpoint] for piece in pieces]), position)
        for hookpoint in hookpoints
    }


class Stream:
    """The training text's activations, step by step.

    A step gives one batch per hookpoint; there are `n_steps` of them, known from the start.
    """

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        hookpoints: Sequence[Hookpoint],
        config: TrainConfig,
        seed: int,
        batch_tokens: int,
    ) -> None:
        self._model, self._corpus, self._hookpoints = model, corpus, hookpoints
        self._seed, self._batch_tokens = seed, batch_tokens
        self._blocks = plan_blocks(corpus, config.block_tokens, config.batch_tokens)
        self._held: tuple[int, dict[Hookpoint, BlockActivations]] | None = None
        self.n_steps = sum(block.n_batches for block in self._blocks)

    def block(self, index: int, advance: Advance) -> dict[Hookpoint, BlockActivations]:
        """The activations of a block, unshuffled; the last one asked for is held."""
        if self._held is None or self._held[0] != index:
            self._held = None  # so that two blocks are never held at once
            contexts = self._blocks[index].contexts
            held = load_block(self._model, self._corpus, contexts, self._hookpoints, self._batch_tokens, advance)
            self._held = index, held
        return self._held[1]

    def tokens_before(self, step: int) -> int:
        """Eligible tokens of the blocks that end before a step."""
        start = self._corpus.context_start
        return sum(
            int(self._corpus.eligible[start[block.contexts.start] : start[block.contexts.stop]].sum())
            for block, first in self._numbered()
            if first + block.n_batches <= step
        )

    def steps(
        self, first: int, max_norms: Mapping[Hookpoint, float | None], advance: Advance
    ) -> Iterator[tuple[int, dict[Hookpoint, ActivationBatch]]]:
        """The steps from `first` on, without the tokens that exceed their hookpoint's norm."""
        for block, first_of_block in self._numbered():
            if first_of_block + block.n_batches <= first:
                continue
            loaded = self.block(block.index, advance)
            streams = [batches(loaded[h].below(limit), block, self._seed) for h, limit in max_norms.items()]
            for step, batch in enumerate(zip(*streams, strict=True), start=first_of_block):
                if step >= first:
                    yield step, dict(zip(max_norms, batch, strict=True))

    def _numbered(self) -> Iterator[tuple[Block, int]]:
        """Every block with the number of its first step."""
        step = 0
        for block in self._blocks:
            yield block, step
            step += block.n_batches


def batches(activations: BlockActivations, block: Block, seed: int) -> Iterator[ActivationBatch]:
    """The block's tokens, permuted, in `n_batches` batches whose sizes differ by at most one."""
    order = torch.from_numpy(np.random.default_rng([seed, block.index]).permutation(len(activations.values)))
    for part in order.tensor_split(block.n_batches):
        values = activations.values[part.to(activations.values.device)].float()
        yield ActivationBatch(source=values, target=values, position=activations.position[part])
