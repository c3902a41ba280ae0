"""The course of a training: which steps there are, and what each of them does.

fvu        a batch of shuffled activations per place, a step of every coder by itself
ce, kl     some contexts, through the language model with coders spliced in (`end_to_end`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from outcrop.config import TrainConfig
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance
from outcrop.train.end_to_end import end_to_end_step
from outcrop.train.step import CoderState, train_step
from outcrop.train.stream import Block, Stream, plan_blocks


class Course:
    """The steps of one training, numbered from 0 and known from the start."""

    def __init__(
        self, stream: Stream, model: LanguageModel, text: Corpus, config: TrainConfig, batch_tokens: int
    ) -> None:
        self._stream, self._model, self._text = stream, model, text
        self._config, self._batch_tokens = config, batch_tokens
        # End to end, a step takes contexts as they come: the documents are shuffled already.
        self._batches = _that_predict(plan_blocks(text, config.batch_tokens, config.batch_tokens), text)

    @property
    def n_steps(self) -> int:
        return self._stream.n_steps if self._config.loss == "fvu" else len(self._batches)

    def tokens_before(self, step: int) -> int:
        """Eligible tokens that have been read before a step."""
        if self._config.loss == "fvu":
            return self._stream.tokens_before(step)
        first = self._batches[step].contexts.start if step < self.n_steps else self._text.n_contexts
        return int(self._text.eligible[: self._text.context_start[first]].sum())

    def steps(self, first: int, states: Sequence[CoderState], advance: Advance) -> Iterator[tuple[int, list[float]]]:
        """Do the steps from `first` on; gives each one's number and the coders' losses."""
        if self._config.loss == "fvu":
            wanted = [(state.key.place, state.normaliser.max_norm) for state in states]
            for step, batch in self._stream.steps(first, wanted, advance):
                batches = [batch[one] for one in wanted]
                yield (
                    step,
                    [train_step(*one, step, self.n_steps, self._config) for one in zip(states, batches, strict=True)],
                )
            return
        for block in self._batches[first:]:
            losses = end_to_end_step(
                self._model, self._text, block, states, self.n_steps, self._config, self._batch_tokens
            )
            advance(int(self._text.eligible[self._tokens(block.contexts)].sum()))
            yield block.index, losses

    def _tokens(self, contexts: range) -> slice:
        return slice(int(self._text.context_start[contexts.start]), int(self._text.context_start[contexts.stop]))


def _that_predict(blocks: Sequence[Block], text: Corpus) -> list[Block]:
    """The blocks, those from which no next token is predicted joined to the one before."""
    behind = np.append(text.context_of[:-1] == text.context_of[1:], False)
    n_before = np.append(0, np.cumsum(text.eligible & behind))
    found: list[Block] = []
    for block in blocks:
        first, stop = text.context_start[[block.contexts.start, block.contexts.stop]]
        if found and n_before[stop] == n_before[first]:
            found[-1] = replace(found[-1], contexts=range(found[-1].contexts.start, block.contexts.stop))
        else:
            found.append(replace(block, index=len(found)))
    return found
