import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outcrop.config import Architecture, Loss, TrainConfig
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.train.end_to_end import end_to_end_step
from outcrop.train.evaluate import cross_entropies
from outcrop.train.loop import train_coders
from outcrop.train.normalise import estimate
from outcrop.train.step import new_state
from outcrop.train.stream import load_block, plan_blocks
from outcrop.types import CoderKey, Hookpoint

POINTS = [Hookpoint("model.layers.0"), Hookpoint("model.layers.1")]
KEYS = [CoderKey("topk", point, point, 0) for point in POINTS]
CODER = Architecture(n_latents=64, k=8)
SETTINGS: dict[str, Any] = {"batch_tokens": 200, "block_tokens": 1_000, "ce_tokens": 400}


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_what_is_trained_end_to_end_costs_the_language_model_less(
    model: LanguageModel, corpora: dict[str, Corpus], loss: Loss
) -> None:
    """Both coders are in the model at once; each is measured by itself."""
    reached = {}
    for name, lr in (("untrained", 1e-9), ("trained", 5e-3)):
        config = TrainConfig(loss=loss, optimizer="adam", lr=lr, **SETTINGS)
        trained = train_coders(model, corpora["train"], corpora["held_out"], dict.fromkeys(KEYS, CODER), config)
        reached[name] = [one.reconstruction.cross_entropy for one in trained]
    for before, after in zip(reached["untrained"], reached["trained"], strict=True):
        if loss == "kl":
            assert after.kl < before.kl
        else:
            assert after.coder < before.coder


def test_the_first_loss_is_the_models_own_with_the_coders_in_it(
    model: LanguageModel, corpora: dict[str, Corpus]
) -> None:
    """With one hookpoint, it is what the evaluation of the untouched coder gives on these contexts."""
    text, place = corpora["train"], (POINTS[0], POINTS[0])
    config = TrainConfig(loss="kl", **SETTINGS)
    (block, *_) = plan_blocks(text, 200, 200)
    activations = load_block(model, text, block.contexts, [place], 4_096, lambda n: None)
    state = new_state(KEYS[0], CODER, config, estimate(activations[place], None))
    placed = state.placed()
    (loss,) = end_to_end_step(model, text, block, [state], 10, config, 4_096)
    n_tokens = int(text.context_start[block.contexts.stop])
    (ce,) = cross_entropies(model, [placed], [torch.zeros(32)], text, n_tokens, 4_096, lambda n: None)
    assert loss == pytest.approx(ce.kl, rel=1e-4)


def test_smaller_forward_passes_give_the_same_step(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    weights = []
    for batch_tokens in (4_096, 60):
        config = TrainConfig(loss="ce", optimizer="adam", lr=1e-3, **SETTINGS)
        trained = train_coders(
            model, corpora["train"], corpora["held_out"], {KEYS[1]: CODER}, config, batch_tokens=batch_tokens
        )
        weights.append(trained[0].placed.coder.decoder_rows())
    assert (weights[0] - weights[1]).norm(dim=1).mean() < 1e-2


def test_a_penalty_makes_relu_sparser_end_to_end(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    l0 = []
    for weight in (0.0, 0.05):
        config = TrainConfig(loss="kl", optimizer="adam", lr=5e-3, sparsity_weight=weight, **SETTINGS)
        relu = Architecture(selection="relu", n_latents=64)
        trained = train_coders(model, corpora["train"], corpora["held_out"], {KEYS[0]: relu}, config)
        l0.append(trained[0].reconstruction.l0)
    assert l0[1] < l0[0]


def test_a_rest_that_predicts_nothing_goes_with_the_step_before(model: LanguageModel) -> None:
    start = np.cumsum([0, *[31] * 5, 2])
    eligible = ~np.isin(np.arange(start[-1]), start)
    text = Corpus(np.arange(start[-1], dtype=np.int32) % 50, start, np.arange(6, dtype=np.int32), eligible)
    config = TrainConfig(loss="ce", **{**SETTINGS, "batch_tokens": 30, "block_tokens": 30})
    (trained,) = train_coders(model, text, text, {KEYS[0]: CODER}, config)
    assert math.isfinite(trained.reconstruction.fvu)


def test_a_training_that_stopped_after_its_last_step_goes_on_to_its_end(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    config = TrainConfig(loss="kl", optimizer="adam", **SETTINGS)
    whole, again = (
        train_coders(
            model, corpora["train"], corpora["held_out"], {KEYS[0]: CODER}, config, checkpoint_directory=tmp_path
        )
        for _ in range(2)
    )
    assert whole[0].reconstruction == again[0].reconstruction
