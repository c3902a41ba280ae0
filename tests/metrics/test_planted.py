"""What the proofs show on many draws, on few: weights undo sampling, and the token illusion is seen."""

from __future__ import annotations

import numpy as np
import pytest

from tests.proofs import latents, windows


def test_weights_undo_the_sampling_of_hard_negatives() -> None:
    fpr, accuracy = windows.weight_rows(20)
    for row in (fpr, accuracy):
        assert row["mean estimate"] == pytest.approx(row["whole corpus"], abs=4 * row["deviation"] / np.sqrt(20))
        assert row["covered"] >= 0.85
    assert fpr["unweighted"] > fpr["whole corpus"] + 0.2


def test_a_token_in_context_explained_as_its_token_shows_its_illusion_and_a_pure_token_none() -> None:
    in_context, rule, token, often = windows.illusion_rows(4)
    assert in_context["balanced_accuracy_random"] > 0.95
    assert in_context["balanced_accuracy_same_token"] == pytest.approx(0.5, abs=0.05)
    assert in_context["token_illusion"] > 0.9 and in_context["context_dependence"] > 0.7
    assert in_context["beyond_tokens_same_token"] == pytest.approx(0, abs=0.1)
    assert rule["balanced_accuracy_same_token"] > 0.93 and rule["token_illusion"] == pytest.approx(0, abs=0.1)
    assert rule["beyond_tokens_same_token"] > 0.8
    assert np.isnan(token["token_illusion"]) and token["context_dependence"] == 0
    assert often["context_dependence"] == pytest.approx(0.1, abs=0.02)


def test_firing_rate_weights_give_the_mean_over_all_latents_from_some() -> None:
    for row in latents.weight_rows(200):
        assert row["bias"] == pytest.approx(0, abs=4 * row["deviation"] / np.sqrt(200))
        assert row["bias unweighted"] > 0.03
        assert row["covered"] > 0.92
        assert row["bounds hold it"] > 0.85


def test_context_dependence_is_as_planted_however_rare_the_types() -> None:
    for row in latents.dependence_rows(50):
        assert row["found"] == pytest.approx(row["planted"], abs=4 * row["deviation"] / np.sqrt(50) + 1e-12)
