from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from outcrop.config import CacheConfig
from outcrop.latents import counts as module
from outcrop.latents import statistics
from outcrop.latents.cache import cache_latents
from outcrop.latents.counts import Counts, count
from outcrop.latents.split import score_documents
from outcrop.latents.statistics import context_dependence, latent_statistics, token_counts
from outcrop.latents.windows import build_grid
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.model.tokens import vocabulary
from tests.latents.conftest import WINDOW, Cached
from tests.latents.test_cache import part_of


@pytest.fixture
def anew(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is counted yet, and what is will be in several chunks."""
    monkeypatch.setattr(module, "_ENTRIES", 200)
    monkeypatch.setattr(statistics, "_PAIRS", 300)
    for path in (cached.directory / str(cached.placed.key)).glob("counts_*"):
        path.unlink()


def test_statistics_equal_the_dense_computation(cached: Cached, anew: None) -> None:
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


def test_firings_are_counted_by_activation_and_by_place(cached: Cached, anew: None) -> None:
    found = latent_statistics(cached.cache, cached.grid, cached.is_score)
    offset = cached.cache.corpus.offset_of
    for latent in range(0, cached.cache.n_latents, 9):
        position = np.flatnonzero(cached.dense[:, latent])
        value = cached.cache[latent].value
        for i in range(32):
            assert found.histogram[latent, i] == ((value >= 2.0 ** (i - 16)) & (value < 2.0 ** (i - 15))).sum()
        for i in range(5):
            here = (offset >= 2**i) & (offset < 2 ** (i + 1))
            n = (cached.eligible & here).sum()
            assert found.place_rate[latent, i] == pytest.approx(here[position].sum() / n)
    assert found.histogram.sum() == found.n_fired.sum()


def test_a_latent_that_fires_where_contexts_begin_is_positional_and_a_common_one_is_dense(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: one fires on all second tokens, one on every other token."""
    corpus, n = cached.cache.corpus, cached.cache.n_latents
    early = cached.eligible & (corpus.offset_of == 1)
    places = np.zeros((n, 16), int)
    places[0, 0] = early.sum()
    for i in range(16):
        places[1, i] = (cached.eligible & (module.place(np.maximum(corpus.offset_of, 1)) == i)).sum() // 2
    real = count(cached.cache, cached.grid, cached.is_score)
    planted = {f.name: getattr(real, f.name) for f in fields(Counts)} | {
        "places": places,
        "n_fired": places.sum(axis=1),
        "total": places.sum(axis=1).astype(float),
    }
    monkeypatch.setattr("outcrop.latents.statistics.count", lambda *_: Counts(**planted))
    found = latent_statistics(cached.cache, cached.grid, cached.is_score)
    assert found.positional[:3].tolist() == [True, False, False]
    assert found.dense[:3].tolist() == [early.sum() / cached.eligible.sum() > 0.1, True, False]


def test_more_text_adds_to_what_was_counted(
    cached: Cached, model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    whole, words, config = corpora["cache"], vocabulary(model.tokenizer), CacheConfig(shard_tokens=700)
    folder = tmp_path / str(cached.placed.key)
    part = part_of(whole, 2 * whole.n_documents // 3)
    kept: dict[Path, int] = {}
    for corpus in (part, whole):
        (cache,) = cache_latents(model, corpus, [cached.placed], tmp_path, config, batch_tokens=200)
        grid = build_grid(corpus, cache.eligible, WINDOW, words)
        found = count(cache, grid, score_documents(corpus.n_documents, 0))
        assert all(path.stat().st_mtime_ns == then for path, then in kept.items()), "what was counted is not anew"
        kept = {path: path.stat().st_mtime_ns for path in sorted(folder.glob("counts_*"))[:-1]}
    expected = count(cached.cache, cached.grid, cached.is_score)
    for field in fields(Counts):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "tokens":
            ours, theirs = ours.toarray(), theirs.toarray()
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


def test_counts_of_another_split_or_a_damaged_file_are_not_taken(cached: Cached) -> None:
    count(cached.cache, cached.grid, cached.is_score)
    other = count(cached.cache, cached.grid, ~cached.is_score)
    again = count(cached.cache, cached.grid, cached.is_score)
    assert np.array_equal(other.n_windows, again.n_windows[:, ::-1])
    path = next((cached.directory / str(cached.placed.key)).glob("counts_*"))
    path.write_bytes(path.read_bytes()[:-50])
    assert np.array_equal(count(cached.cache, cached.grid, cached.is_score).n_windows, again.n_windows)


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
    fired = csr_array(np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 2]]))
    dependence, coverage = context_dependence(fired, np.array([0, 9, 9, 1, 9, 4]))
    np.testing.assert_allclose(dependence, [np.nan, np.nan, 1 - 1 / 3])
    np.testing.assert_allclose(coverage, [np.nan, 0, 1])


def test_context_dependence_of_a_type_that_occurs_often() -> None:
    """Fired on every one of 100,000 occurrences: the token decides."""
    dependence, _ = context_dependence(csr_array(np.array([[100_000]], dtype=np.int32)), np.array([100_000]))
    np.testing.assert_allclose(dependence, [0])


def test_triggers_follow_their_definition(cached: Cached) -> None:
    """Token type by token type."""
    triggers = latent_statistics(cached.cache, cached.grid, cached.is_score).triggers
    tokens, n_with = cached.cache.corpus.tokens, 0
    for latent in range(0, cached.cache.n_latents, 3):
        fires = cached.dense[:, latent] > 0
        rows = []
        for token in np.unique(tokens[cached.eligible]):
            here = cached.eligible & (tokens == token)
            f, p = int(fires[here].sum()), fires[here].mean()
            if f and p >= 10 * fires.sum() / cached.eligible.sum():
                rows.append((-f, int(token), p))
        rows = sorted(rows)[:16]
        own = triggers.of(latent)
        assert triggers.token[own].tolist() == [token for _, token, _ in rows]
        assert triggers.probability[own] == pytest.approx([p for _, _, p in rows])
        covered = -sum(f for f, _, _ in rows)
        if fires.any():
            assert triggers.cover[latent] == pytest.approx(covered / fires.sum())
            assert triggers.diffuse[latent] == (covered < fires.sum() / 2)
            assert triggers.pure[latent] == (covered >= fires.sum() / 2 and all(p >= 0.99 for _, _, p in rows))
            n_with += bool(rows)
    assert n_with > 20


def test_every_eligible_token_is_counted(cached: Cached) -> None:
    assert token_counts(cached.cache).sum() == cached.eligible.sum()
