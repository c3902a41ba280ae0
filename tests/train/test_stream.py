import numpy as np
import torch

from outcrop.config import TrainConfig
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.train.stream import Stream, plan_blocks
from outcrop.types import Hookpoint

POINTS = tuple((point, point) for point in (Hookpoint("model.layers.0"), Hookpoint("model.layers.1")))
NO_LIMIT = [(place, None) for place in POINTS]


def stream(model: LanguageModel, corpus: Corpus, seed: int = 0) -> Stream:
    return Stream(model, corpus, POINTS, TrainConfig(block_tokens=1_000, batch_tokens=128), seed, 2_000)


def nothing(n: int) -> None:
    """No bar."""


def test_blocks_hold_every_context_once(corpora: dict[str, Corpus]) -> None:
    blocks = plan_blocks(corpora["train"], 1_000, 128)
    assert [context for block in blocks for context in block.contexts] == list(range(corpora["train"].n_contexts))


def test_every_eligible_token_is_trained_on_once(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    one = stream(model, corpora["train"])
    steps = list(one.steps(0, NO_LIMIT, nothing))
    assert [step for step, _ in steps] == list(range(one.n_steps))
    for point in POINTS:
        positions = torch.cat([batch[point, None].position for _, batch in steps]).numpy()
        assert np.array_equal(np.sort(positions), np.flatnonzero(corpora["train"].eligible))
    sizes = [len(batch[POINTS[0], None].source) for _, batch in steps]
    assert max(sizes) <= 1.5 * 128


def test_the_stream_from_any_step_on_is_the_rest_of_the_whole(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    one = stream(model, corpora["train"])
    whole = list(one.steps(0, NO_LIMIT, nothing))
    for first in (1, 8, 13, one.n_steps - 1):
        rest = list(stream(model, corpora["train"]).steps(first, NO_LIMIT, nothing))
        assert len(rest) == one.n_steps - first
        for (step, batch), (expected_step, expected) in zip(rest, whole[first:], strict=True):
            assert step == expected_step
            assert torch.equal(batch[POINTS[1], None].source, expected[POINTS[1], None].source)


def test_batches_are_shuffled_by_the_seed(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    first, other = (
        next(stream(model, corpora["train"], seed).steps(0, NO_LIMIT, nothing))[1][POINTS[0], None].position
        for seed in (0, 1)
    )
    assert not torch.equal(first, other)
    assert not torch.equal(first, first.sort().values)


def test_tokens_above_the_norm_reach_no_batch(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    one = stream(model, corpora["train"])
    norms = torch.cat([batch[POINTS[0], None].source.norm(dim=1) for _, batch in one.steps(0, NO_LIMIT, nothing)])
    limit = float(norms.median())
    wanted = [(POINTS[0], limit), (POINTS[0], None)]  # as coders at one place may differ in what is a sink to them
    steps = [batch for _, batch in one.steps(0, wanted, nothing)]
    kept, whole = (torch.cat([batch[each].source.norm(dim=1) for batch in steps]) for each in wanted)
    assert len(kept) == int((norms <= limit).sum()) and torch.equal(whole, norms)
    assert kept.max() <= limit
