import numpy as np
import pytest

from outcrop.latents import statistics as module
from outcrop.latents.statistics import latent_statistics
from tests.latents.conftest import Cached


def test_statistics_equal_the_dense_computation(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENTRIES", 500)  # several chunks
    found = latent_statistics(cached.cache, cached.grid, cached.is_score)
    fires, by_window = cached.dense > 0, (cached.dense[cached.grid.positions] > 0).any(axis=1)
    scored = cached.is_score[cached.grid.document]
    n = cached.eligible.sum()
    assert np.array_equal(found.n_fired, fires.sum(axis=0))
    np.testing.assert_allclose(found.firing_rate, fires.sum(axis=0) / n)
    assert np.array_equal(found.n_windows, by_window.sum(axis=0))
    np.testing.assert_allclose(found.context_rate, by_window.mean(axis=0))
    assert np.array_equal(found.n_score_windows, by_window[scored].sum(axis=0))
    assert np.array_equal(found.n_explain_windows, by_window[~scored].sum(axis=0))
    by_document = np.array([by_window[cached.grid.document == d].any(axis=0) for d in range(len(cached.is_score))])
    assert np.array_equal(found.n_score_documents, by_document[cached.is_score].sum(axis=0))
    assert np.array_equal(found.n_explain_documents, by_document[~cached.is_score].sum(axis=0))
    assert (found.n_score_documents < found.n_score_windows).any()
    ever = fires.any(axis=0)
    np.testing.assert_allclose(
        found.mean_activation[ever], cached.dense.sum(axis=0)[ever] / fires.sum(axis=0)[ever], rtol=2e-3
    )
    np.testing.assert_allclose(found.max_activation[ever], cached.dense.max(axis=0)[ever], rtol=2e-3)
    assert np.isnan(found.mean_activation[~ever]).all() and np.isnan(found.max_activation[~ever]).all()


def test_context_dependence_follows_its_definition(cached: Cached) -> None:
    found = latent_statistics(cached.cache, cached.grid, cached.is_score)
    tokens = cached.cache.corpus.tokens
    n_known = 0
    for latent in range(0, cached.cache.n_latents, 7):
        explained = counted = total = 0.0
        for token in np.unique(tokens[cached.eligible]):
            here = cached.eligible & (tokens == token)
            n, f = here.sum(), (cached.dense[here, latent] > 0).sum()
            total += f
            if n >= 2:
                explained += f * (f - 1) / (n - 1)
                counted += f
        if counted:
            n_known += 1
            assert found.context_dependence[latent] == pytest.approx(1 - explained / counted)
            assert found.context_dependence_coverage[latent] == pytest.approx(counted / total)
        else:
            assert np.isnan(found.context_dependence[latent])
    assert n_known > 30, "nearly all of these latents fire, and on tokens that occur again"


def test_context_dependence_is_missing_without_firings_and_on_tokens_that_occur_once() -> None:
    """One latent never fires, one on the only token of type 3, one on 2 of the 4 tokens of type 5."""
    latent, token, occurrences = np.array([1, 2, 2]), np.array([3, 5, 5]), np.array([0, 9, 9, 1, 9, 4])
    dependence, coverage = module._context_dependence(latent, token, 3, occurrences)
    np.testing.assert_allclose(dependence, [np.nan, np.nan, 1 - 1 / 3])
    np.testing.assert_allclose(coverage, [np.nan, 0, 1])
