from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outcrop.config import ExamplesConfig, SelectConfig
from outcrop.errors import TextError
from outcrop.latents.cache import Firings
from outcrop.latents.examples import build_examples, token_evidence
from outcrop.latents.negatives import strata, trigger_tokens
from outcrop.latents.select import Selection, is_everywhere, is_rare, select_latents
from outcrop.latents.split import in_split, score_documents
from outcrop.latents.statistics import LatentStatistics, latent_statistics, token_counts
from outcrop.latents.survey import Survey, coder_row, latent_rows, survey
from outcrop.model.load import LanguageModel
from outcrop.model.tokens import vocabulary
from outcrop.types import LatentExamples
from tests.latents.conftest import Cached

CONFIG = ExamplesConfig(
    n_quantiles=2,
    explain_activating=4,
    explain_random=3,
    explain_same_token=2,
    score_activating=6,
    score_random=5,
    score_same_token=4,
)


def surveyed(cached: Cached, seed: int = 0, latents: list[int] | None = None) -> Survey:
    """A survey that selects every latent that can be, or the given ones."""
    is_score = score_documents(cached.cache.corpus.n_documents, seed)
    statistics = latent_statistics(cached.cache, cached.grid, is_score)
    rare = is_rare(statistics, CONFIG)
    chosen = np.flatnonzero((statistics.n_fired > 0) & ~rare) if latents is None else np.array(latents)
    assert latents is not None or len(chosen) > 10
    return Survey(cached.cache, cached.grid, is_score, statistics, rare, Selection(chosen, np.ones(len(chosen))))


def built(cached: Cached, seed: int = 0) -> list[LatentExamples]:
    return list(build_examples(surveyed(cached, seed), CONFIG, seed=seed))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_no_window_and_no_document_is_both_explained_and_scored(cached: Cached, seed: int) -> None:
    for latent in built(cached, seed):
        explained = {example.window.document for example in latent.explain}
        assert not explained & {example.window.document for example in latent.score}
        rows = [example.row for example in (*latent.explain, *latent.score)]
        assert len(rows) == len(set(rows))


@given(st.integers(1, 500), st.integers(0, 2**31))
def test_documents_are_split_in_halves(n: int, seed: int) -> None:
    split = score_documents(n, seed)
    assert split.sum() == n // 2
    assert (in_split(split, "score") != in_split(split, "explain")).all()


def test_activating_windows_fire_and_non_activating_ones_do_not(cached: Cached) -> None:
    for latent in built(cached):
        for example in (*latent.explain, *latent.score):
            truth = cached.dense[cached.grid.positions[example.row], latent.latent.index]
            np.testing.assert_allclose(example.window.activations, truth, rtol=2e-3)
            assert example.activating == bool((truth > 0).any())
        assert [e.index for e in (*latent.explain, *latent.score)] == list(
            range(len(latent.explain) + len(latent.score))
        )


def test_every_quantile_gives_its_share_and_they_are_ordered_by_peak(cached: Cached) -> None:
    for latent in built(cached):
        for examples, n in ((latent.explain, 4), (latent.score, 6)):
            peaks = {q: [e.window.activations.max() for e in examples if e.quantile == q] for q in (1, 2)}
            assert len(peaks[1]) == len(peaks[2]) == n // 2
            assert max(peaks[1]) <= min(peaks[2])


def brute_force_shares(cached: Cached, latent: int, triggers: set[int]) -> dict[str, float]:
    """Window by window."""
    counts = {"same_token": 0, "random": 0}
    for positions in cached.grid.positions:
        if (cached.dense[positions, latent] > 0).any():
            continue
        contains = bool(set(cached.cache.corpus.tokens[positions].tolist()) & triggers)
        counts["same_token" if contains else "random"] += 1
    total = sum(counts.values())
    return {stratum: n / total for stratum, n in counts.items() if n or stratum == "random"}


def brute_force_triggers(cached: Cached, latent: int) -> set[int]:
    """METRICS' definition, token type by token type."""
    tokens, fires = cached.cache.corpus.tokens, cached.dense[:, latent] > 0
    rate = fires.sum() / cached.eligible.sum()
    rows = []
    for token in np.unique(tokens[cached.eligible]):
        here = cached.eligible & (tokens == token)
        f, p = int(fires[here].sum()), fires[here].mean()
        if f and p >= 10 * rate:
            rows.append((-f, int(token), p))
    rows = sorted(rows)[:16]
    diffuse = -sum(f for f, _, _ in rows) < 0.5 * fires.sum()
    pure = all(p >= 0.99 for _, _, p in rows)
    return set() if diffuse or pure else {token for _, token, _ in rows}


def test_strata_add_up_to_one_and_equal_a_count_by_hand(cached: Cached) -> None:
    with_stratum = 0
    for latent in built(cached):
        triggers = brute_force_triggers(cached, latent.latent.index)
        shares = {s.stratum: s.share for s in latent.strata}
        with_stratum += "same_token" in shares
        assert sum(shares.values()) == pytest.approx(1)
        assert shares == pytest.approx(brute_force_shares(cached, latent.latent.index, triggers))
        for example in (*latent.explain, *latent.score):
            if example.stratum == "same_token":
                assert example.source in example.window.tokens and example.source in triggers
            elif example.stratum == "random":
                assert not set(example.window.tokens.tolist()) & triggers
    assert with_stratum > 3


def test_what_a_stratum_cannot_supply_is_noted_and_not_replaced(cached: Cached) -> None:
    greedy = replace(CONFIG, score_same_token=100_000)
    latent = next(
        latent for latent in built(cached) if any(s.stratum == "same_token" for s in latent.strata)
    ).latent.index
    (examples,) = build_examples(surveyed(cached, latents=[latent]), greedy)
    (same,) = (s for s in examples.strata if s.stratum == "same_token")
    assert same.shortfall is not None and "100000 wanted" in same.shortfall
    assert sum(e.stratum == "random" for e in examples.score) == 5


def test_a_pure_token_latent_has_no_same_token_stratum(cached: Cached) -> None:
    corpus, occurrences = cached.cache.corpus, token_counts(cached.cache)
    token = int(np.argsort(occurrences)[-20])
    position = np.flatnonzero(cached.eligible & (corpus.tokens == token))
    pure = Firings(position.astype(np.int64), np.ones(len(position), np.float32))
    assert len(trigger_tokens(pure, cached.cache, occurrences)) == 0
    half = Firings(position[::2].astype(np.int64), np.ones(len(position[::2]), np.float32))
    assert trigger_tokens(half, cached.cache, occurrences).tolist() == [token]


def test_strata_partition_the_windows_without_firing(cached: Cached) -> None:
    fires = np.zeros(cached.grid.n_windows, dtype=bool)
    fires[::3] = True
    parts = strata(cached.grid, fires, np.array([5, 70]))
    assert np.array_equal(np.sort(np.concatenate([p.rows for p in parts])), np.flatnonzero(~fires))


def statistics_of(firing_rate: np.ndarray) -> LatentStatistics:
    n = len(firing_rate)
    many, nothing = np.full(n, 1_000), np.full(n, np.nan)
    return LatentStatistics(
        (firing_rate * 1e6).astype(int), firing_rate, many, nothing, nothing, nothing, nothing, nothing, *[many] * 4
    )


@pytest.mark.parametrize(
    ("few", "n"),
    [("n_explain_windows", 4), ("n_score_windows", 6), ("n_explain_documents", 2), ("n_score_documents", 2)],
)
def test_a_latent_is_rare_if_one_half_has_too_few_windows_or_documents(few: str, n: int) -> None:
    """As many windows as are shown activating, as many documents as there are quantiles."""
    statistics = replace(statistics_of(np.array([1e-3, 1e-3, 0.0])), **{few: np.array([n, n - 1, 0])})
    assert is_rare(statistics, CONFIG).tolist() == [False, True, False]


def test_the_selection_is_a_spread_over_layers_and_firing_rates() -> None:
    rates = np.tile(np.logspace(-5, -1, 200), 3)
    statistics = statistics_of(rates)
    chosen = select_latents(statistics, is_rare(statistics, CONFIG), 3, SelectConfig(n_latents=24, n_rate_bins=8), 0)
    assert np.bincount(chosen.latents // 200).tolist() == [8, 8, 8]
    bins = np.floor(np.clip((np.log10(rates[chosen.latents]) + 5) / 4 * 8, 0, 7.999))
    assert np.bincount(bins.astype(int), minlength=8).tolist() == [3] * 8
    assert chosen.probability == pytest.approx(1 / 25, rel=0.1)
    again = select_latents(statistics, is_rare(statistics, CONFIG), 3, SelectConfig(n_latents=24, n_rate_bins=8), 0)
    other = select_latents(statistics, is_rare(statistics, CONFIG), 3, SelectConfig(n_latents=24, n_rate_bins=8), 1)
    assert np.array_equal(chosen.latents, again.latents)
    assert not np.array_equal(chosen.latents, other.latents)


def test_a_small_selection_still_reaches_the_frequent_latents() -> None:
    rates = np.tile(np.logspace(-5, -1, 200), 3)
    statistics = statistics_of(rates)
    chosen = select_latents(statistics, is_rare(statistics, CONFIG), 3, SelectConfig(n_latents=6, n_rate_bins=8), 0)
    assert np.bincount(chosen.latents // 200).tolist() == [2, 2, 2]
    assert (rates[chosen.latents] > 1e-3).reshape(3, 2).sum(axis=1).tolist() == [1, 1, 1]


def test_a_switched_off_stratum_falls_through_to_random(cached: Cached) -> None:
    latent = next(x for x in built(cached) if x.strata[0].stratum == "same_token").latent.index
    (examples,) = build_examples(surveyed(cached, latents=[latent]), replace(CONFIG, score_same_token=0))
    assert [(s.stratum, s.share) for s in examples.strata] == [("random", 1.0)]


def test_a_latent_that_fires_nearly_everywhere_is_told_apart() -> None:
    statistics = statistics_of(np.array([1e-3, 1e-3]))  # each fires in 1,000 windows of either half
    assert is_everywhere(statistics, 1_003, 1_005, CONFIG).tolist() == [False, False]
    assert is_everywhere(statistics, 1_002, 1_005, CONFIG).tolist() == [True, True]
    assert is_everywhere(statistics, 1_003, 1_004, CONFIG).tolist() == [True, True]


def test_the_selection_takes_no_dead_and_no_rare_latent_and_all_when_too_few() -> None:
    statistics = statistics_of(np.array([0.0, 1e-3, 1e-3, 1e-2, 0.0, 1e-3]))
    rare = np.array([False, True, False, False, False, False])
    chosen = select_latents(statistics, rare, 2, SelectConfig(n_latents=24), 0)
    assert chosen.latents.tolist() == [2, 3, 5]
    assert chosen.probability.tolist() == [1, 1, 1]


def test_token_evidence_counts_the_explain_documents_only(cached: Cached) -> None:
    one = surveyed(cached, latents=[0, 9])
    corpus = cached.cache.corpus
    here = cached.eligible & ~one.is_score[corpus.document_of]
    for latent, evidence in zip((0, 9), token_evidence(one), strict=True):
        for token in np.unique(corpus.tokens[here]):
            assert evidence.occurrences[token] == (corpus.tokens[here] == token).sum()
            assert evidence.fired[token] == (cached.dense[here & (corpus.tokens == token), latent] > 0).sum()
        rows = ~one.is_score[cached.grid.document]
        assert np.array_equal(evidence.windows, cached.grid.tokens[rows])
        assert np.array_equal(evidence.fires, (cached.dense[cached.grid.positions[rows], latent] > 0).any(axis=1))


def test_a_text_without_a_single_window_is_refused_with_the_remedy(cached: Cached, model: LanguageModel) -> None:
    longest = np.bincount(cached.cache.corpus.document_of[cached.eligible]).max()
    with pytest.raises(TextError, match=rf"window of 1000 .*longest has {longest}; lower --cache\.window-tokens"):
        survey(cached.cache, vocabulary(model.tokenizer), SelectConfig(), CONFIG, window_tokens=1_000)


def test_a_survey_accounts_for_every_latent_and_token(cached: Cached, model: LanguageModel) -> None:
    one = survey(cached.cache, vocabulary(model.tokenizer), SelectConfig(n_latents=6), CONFIG, window_tokens=8)
    rows, coder = list(latent_rows(one)), coder_row(one)
    assert [row.latent.index for row in rows] == list(range(256))
    assert [row.layer for row in rows] == [0] * 128 + [1] * 128
    assert sum(row.selection_probability is not None for row in rows) == 6
    assert coder.n_tokens + coder.n_excluded_tokens == len(cached.cache.corpus.tokens)
    assert coder.n_windows * 8 + coder.n_off_grid_tokens == coder.n_tokens
    assert all((row.mean_activation is None) == (row.n_fired == 0) for row in rows)
