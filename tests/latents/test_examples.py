import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outcrop.config import ExamplesConfig, SelectConfig
from outcrop.errors import ConfigError, TextError
from outcrop.latents.examples import build_examples, token_evidence
from outcrop.latents.nearest import WindowIndex
from outcrop.latents.negatives import StratumRows, partition, same_token_rows
from outcrop.latents.neighbours import find_neighbours
from outcrop.latents.select import Selection, is_everywhere, is_rare, select_latents
from outcrop.latents.split import in_split, score_documents
from outcrop.latents.statistics import LatentStatistics, latent_statistics
from outcrop.latents.survey import Survey, coder_row, latent_rows, layers_and_prefixes, survey
from outcrop.latents.triggers import Triggers
from outcrop.model.load import LanguageModel
from outcrop.model.tokens import vocabulary
from outcrop.types import Example, LatentExamples, Vocabulary
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
LAYERS = np.repeat([0, 1, 2], 200)
NO_PREFIXES = np.zeros_like(LAYERS)


def surveyed(cached: Cached, seed: int = 0, latents: list[int] | None = None) -> Survey:
    """A survey that selects every latent that can be, or the given ones."""
    is_score = score_documents(cached.cache.corpus.n_documents, seed)
    statistics = latent_statistics(cached.cache, cached.grid, is_score)
    rare = is_rare(statistics, CONFIG)
    chosen = np.flatnonzero((statistics.n_fired > 0) & ~rare) if latents is None else np.array(latents)
    assert latents is not None or len(chosen) > 10
    selection, words = Selection(chosen, np.ones(len(chosen))), Vocabulary(())  # of which no word is asked for
    return Survey(cached.cache, words, cached.grid, is_score, statistics, rare, selection)


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
    assert split.sum() in (n // 2, (n + 1) // 2)
    assert np.array_equal(score_documents(n + 7, seed)[:n], split), "documents put behind move none"
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


def brute_force_stratum(cached: Cached, latent: int, row: int, triggers: set[int], near: list[int]) -> str:
    """METRICS' order of precedence, for one window in which the latent does not fire."""
    positions = cached.grid.positions[row]
    if set(cached.cache.corpus.tokens[positions].tolist()) & triggers:
        return "same_token"
    return "neighbour" if (cached.dense[np.ix_(positions, near)] > 0).any() else "random"


def test_strata_are_those_of_a_count_by_hand_and_add_up_to_one(cached: Cached) -> None:
    one, counted = surveyed(cached), Counter[str]()
    neighbours = find_neighbours(cached.cache, one.selection.latents, "jaccard", 3)
    for latent in build_examples(one, replace(CONFIG, n_neighbours=3)):
        index = latent.latent.index
        own = one.statistics.triggers
        has = not (own.diffuse[index] or own.pure[index])
        triggers = set(own.token[own.of(index)].tolist()) if has else set()
        near = neighbours.of_latent(index)[0].tolist()
        silent = np.flatnonzero(~(cached.dense[cached.grid.positions, index] > 0).any(axis=1))
        strata = [brute_force_stratum(cached, index, row, triggers, near) for row in silent.tolist()]
        shares = {s.stratum: s.share for s in latent.strata if s.n_windows}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares == pytest.approx({s: n / len(silent) for s, n in Counter(strata).items()})
        for example in (*latent.explain, *latent.score):
            if example.stratum:
                counted[example.stratum] += 1
                assert example.stratum == strata[silent.tolist().index(example.row)]
                check_source(cached, example, triggers, near)
        assert ("same_token" in shares) or not has or not triggers
    assert min(counted[s] for s in ("same_token", "neighbour", "random")) > 20


def check_source(cached: Cached, example: Example, triggers: set[int], near: list[int]) -> None:
    """What made the window a member is really there."""
    if example.stratum == "same_token":
        assert example.source == next(token for token in example.window.tokens.tolist() if token in triggers)
    elif example.stratum == "neighbour":
        fires = [n for n in near if (cached.dense[cached.grid.positions[example.row], n] > 0).any()]
        assert example.source == fires[0], "the nearest of those that fire there"
        assert example.distance is not None and 0 <= example.distance < 1
    else:
        assert example.source is None and example.distance is None


def test_what_a_stratum_cannot_supply_is_noted_with_the_reason_and_not_replaced(cached: Cached) -> None:
    greedy = replace(CONFIG, score_same_token=100_000)
    reasons = Counter[str]()
    for examples in build_examples(surveyed(cached), greedy):
        (same,) = (s for s in examples.strata if s.stratum == "same_token")
        assert same.shortfall is not None
        reasons[same.shortfall.split(":")[0]] += 1
        assert same.n_windows or same.shortfall.startswith(("diffuse", "pure", "explain"))
        assert sum(e.stratum == "random" for e in examples.score) == 5
    assert reasons["diffuse"] and reasons["score"] + reasons["explain"]


def test_windows_that_are_alike_in_meaning_come_from_the_index(cached: Cached) -> None:
    """A made-up index: the windows nearest to any row are the next two."""

    class NextTwo(WindowIndex):
        def __init__(self) -> None: ...

        def nearest(self, rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
            near = (rows[:, None] + [1, 2]) % cached.grid.n_windows
            return near, np.broadcast_to(np.float32([0.9, 0.5]), near.shape).copy()

    config = replace(CONFIG, embedder="made up", explain_semantic=2, score_semantic=2)
    n_found = 0
    for examples in build_examples(surveyed(cached), config, index=NextTwo()):
        fires = (cached.dense[cached.grid.positions, examples.latent.index] > 0).any(axis=1)
        for example in (*examples.explain, *examples.score):
            if example.stratum == "semantic":
                n_found += 1
                assert example.source is not None and fires[example.source] and not fires[example.row]
                step = (example.row - example.source) % cached.grid.n_windows
                assert example.distance == pytest.approx({1: 0.1, 2: 0.5}[step])
    assert n_found > 20


def test_windows_around_peaks_hold_each_activation_at_its_own_token(cached: Cached) -> None:
    """Position by position; at a document's edge they are shorter, never shifted or padded."""
    config, lengths = replace(CONFIG, explain_windows="centred", peak_offset=5), set[int]()
    corpus = cached.cache.corpus
    for latent in build_examples(surveyed(cached), config):
        for example in latent.explain:
            if not example.activating:
                continue
            window = example.window
            start = int(corpus.context_start[window.context]) + window.offset
            own = np.flatnonzero(cached.eligible & (corpus.document_of == window.document))
            positions = own[own >= start][: len(window.tokens)]
            assert np.array_equal(window.tokens, corpus.tokens[positions])
            truth = cached.dense[positions, latent.latent.index]
            np.testing.assert_allclose(window.activations, truth, rtol=2e-3)
            (whole,) = cached.grid.windows(np.array([example.row]), cached.cache[latent.latent.index])
            peak = cached.grid.positions[example.row, whole.activations.argmax()]
            before, behind = int((own < peak).sum()), int((own > peak).sum())
            assert np.flatnonzero(positions == peak).tolist() == [min(5, before)]
            assert window.activations.max() == whole.activations.max(), "no stronger one of another row beside it"
            assert len(window.tokens) == min(5, before) + 1 + min(2, behind)
            lengths.add(len(window.tokens))
        assert all(len(e.window.tokens) == 8 for e in latent.score)
    assert len(lengths) > 2


def test_same_token_windows_for_explainers_are_position_matched(cached: Cached) -> None:
    """The trigger stands where the peaks stand, and the latent fires nowhere in the window, off its grid row either."""
    config = replace(CONFIG, explain_windows="centred", peak_offset=3, explain_same_token=4)
    corpus, n_found, n_off_row = cached.cache.corpus, 0, 0
    for latent in build_examples(surveyed(cached), config):
        for example in latent.explain:
            if example.stratum != "same_token":
                continue
            n_found += 1
            start = int(corpus.context_start[example.window.context]) + example.window.offset
            own = np.flatnonzero(cached.eligible & (corpus.document_of == example.window.document))
            positions = own[own >= start][: len(example.window.tokens)]
            assert not cached.dense[positions, latent.latent.index].any()
            assert np.array_equal(example.window.tokens, corpus.tokens[positions])
            row = cached.grid.positions[example.row]
            trigger = row[(corpus.tokens[row] == example.source).argmax()]
            assert np.flatnonzero(positions == trigger).tolist() == [min(3, int((own < trigger).sum()))]
            n_off_row += not np.isin(positions, row).all()
    assert n_found > 10
    assert n_off_row > 5


def test_a_window_around_a_position_is_silent_only_if_nothing_in_it_fires(cached: Cached) -> None:
    for latent in range(0, cached.cache.n_latents, 7):
        firings = cached.cache[latent]
        peaks = cached.grid.positions[:, 2]
        windows = cached.grid.centred(peaks, 5, firings)
        assert cached.grid.silent_around(peaks, 5, firings).tolist() == [not window.fires.any() for window in windows]


def test_strata_partition_the_windows_without_firing_in_their_order(cached: Cached) -> None:
    fires = np.zeros(cached.grid.n_windows, dtype=bool)
    fires[::3] = True
    everything, none = np.arange(len(fires)), np.empty(0, np.int64)
    common = np.bincount(cached.grid.tokens.ravel()).argsort()[-2:]
    first = same_token_rows(cached.grid, common)
    parts = partition(fires, [first, StratumRows("semantic", none), StratumRows("neighbour", everything[1::3])])
    assert [part.stratum for part in parts] == ["same_token", "neighbour", "random"], "an empty one is not there"
    assert np.array_equal(np.sort(np.concatenate([p.rows for p in parts])), np.flatnonzero(~fires))
    assert np.array_equal(parts[0].rows, first.rows[~fires[first.rows]])


def statistics_of(firing_rate: np.ndarray, pure: Sequence[int] = ()) -> LatentStatistics:
    """Of latents of which only the rate matters, and which are pure token latents."""
    n = len(firing_rate)
    many, nothing = np.full(n, 1_000), np.full(n, np.nan)
    cover = np.where(np.isin(np.arange(n), pure), 1.0, 0.0)
    no_triggers = np.zeros(n + 1, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
    return LatentStatistics(
        n_fired=(firing_rate * 1e6).astype(int),
        firing_rate=firing_rate,
        n_windows=many,
        context_rate=nothing,
        mean_activation=nothing,
        max_activation=nothing,
        context_dependence=nothing,
        context_dependence_coverage=nothing,
        n_explain_windows=many,
        n_score_windows=many,
        n_explain_documents=many,
        n_score_documents=many,
        histogram=np.zeros((n, 32), int),
        place_rate=np.zeros((n, 16)),
        positional=np.zeros(n, bool),
        triggers=Triggers(*no_triggers, cover),
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
    chosen = select_latents(
        statistics, is_rare(statistics, CONFIG), LAYERS, NO_PREFIXES, SelectConfig(n_latents=24, n_rate_bins=8), 0
    )
    assert np.bincount(chosen.latents // 200).tolist() == [8, 8, 8]
    bins = np.floor(np.clip((np.log10(rates[chosen.latents]) + 5) / 4 * 8, 0, 7.999))
    assert np.bincount(bins.astype(int), minlength=8).tolist() == [3] * 8
    assert chosen.probability == pytest.approx(1 / 25, rel=0.1)
    again = select_latents(
        statistics, is_rare(statistics, CONFIG), LAYERS, NO_PREFIXES, SelectConfig(n_latents=24, n_rate_bins=8), 0
    )
    other = select_latents(
        statistics, is_rare(statistics, CONFIG), LAYERS, NO_PREFIXES, SelectConfig(n_latents=24, n_rate_bins=8), 1
    )
    assert np.array_equal(chosen.latents, again.latents)
    assert not np.array_equal(chosen.latents, other.latents)


def test_a_small_selection_still_reaches_the_frequent_latents() -> None:
    rates = np.tile(np.logspace(-5, -1, 200), 3)
    statistics = statistics_of(rates)
    chosen = select_latents(
        statistics, is_rare(statistics, CONFIG), LAYERS, NO_PREFIXES, SelectConfig(n_latents=6, n_rate_bins=8), 0
    )
    assert np.bincount(chosen.latents // 200).tolist() == [2, 2, 2]
    assert (rates[chosen.latents] > 1e-3).reshape(3, 2).sum(axis=1).tolist() == [1, 1, 1]


def test_given_latents_are_taken_but_for_those_that_cannot_be_explained() -> None:
    statistics = statistics_of(np.array([1e-3, 0.0, 1e-3, 1e-2]))
    rare = np.array([False, False, True, False])
    chosen = select_latents(statistics, rare, *2 * [np.zeros(4, int)], SelectConfig(latents=(3, 2, 1, 0)), 0)
    assert chosen.latents.tolist() == [0, 3] and chosen.probability.tolist() == [1, 1]
    with pytest.raises(ConfigError, match="names 9; the coder has 4 latents"):
        select_latents(statistics, rare, *2 * [np.zeros(4, int)], SelectConfig(latents=(9,)), 0)


def test_a_random_selection_has_equal_chances_and_flags_narrow_it() -> None:
    statistics = statistics_of(np.full(1_000, 1e-3) + (np.arange(1_000) < 50), pure=range(100, 200))
    none, group = np.zeros(1_000, bool), np.zeros(1_000, int)
    chosen = select_latents(statistics, none, group, group, SelectConfig(n_latents=100, how="random"), 0)
    assert len(chosen.latents) == 100 and chosen.probability == pytest.approx(0.1)
    for only, inside in (("pure_token", range(100, 200)), ("dense", range(50))):
        config = SelectConfig(n_latents=30, how="random", only=(only,))
        assert set(select_latents(statistics, none, group, group, config, 0).latents.tolist()) <= set(inside)
        config = SelectConfig(n_latents=1_000, how="random", without=(only,))
        assert not set(select_latents(statistics, none, group, group, config, 0).latents.tolist()) & set(inside)


def test_prefixes_of_a_matryoshka_share_the_selection(cached: Cached) -> None:
    """Prefixes 8 and 32 of 128 latents in two layers make six groups; who gets what is left over is drawn."""
    coder = copy.copy(cached.placed.coder)
    coder.architecture = replace(coder.architecture, matryoshka=(8, 32))
    cache = copy.copy(cached.cache)
    cache.placed = replace(cached.placed, coder=coder)
    layer, prefix = layers_and_prefixes(cache)
    assert np.bincount(3 * layer + prefix).tolist() == [8, 24, 96, 8, 24, 96]
    statistics, none = statistics_of(np.full(256, 1e-3)), np.zeros(256, bool)
    left_out = (layer == 1) & (prefix > 0)
    chosen = select_latents(statistics, left_out, layer, prefix, SelectConfig(n_latents=12), 0).latents
    assert np.bincount(layer[chosen]).tolist() == [6, 6]
    assert np.bincount(prefix[chosen[layer[chosen] == 0]]).tolist() == [2, 2, 2]
    two = SelectConfig(n_latents=2)
    few = [select_latents(statistics, none, layer, prefix, two, seed).latents for seed in range(20)]
    drawn = {(int(layer[latent]), int(prefix[latent])) for latents in few for latent in latents}
    assert drawn == set(product(range(2), range(3)))


def test_a_switched_off_stratum_falls_through_to_random(cached: Cached) -> None:
    latent = next(
        x for x in built(cached) if x.strata[0].stratum == "same_token" and x.strata[0].n_windows
    ).latent.index
    off = replace(CONFIG, score_same_token=0, explain_same_token=0, score_neighbour=0, explain_neighbour=0)
    (examples,) = build_examples(surveyed(cached, latents=[latent]), off)
    assert [(s.stratum, s.share) for s in examples.strata] == [("random", 1.0)]


def test_a_latent_that_fires_nearly_everywhere_is_told_apart() -> None:
    statistics = statistics_of(np.array([1e-3, 1e-3]))  # each fires in 1,000 windows of either half
    assert is_everywhere(statistics, 1_003, 1_005, CONFIG).tolist() == [False, False]
    assert is_everywhere(statistics, 1_002, 1_005, CONFIG).tolist() == [True, True]
    assert is_everywhere(statistics, 1_003, 1_004, CONFIG).tolist() == [True, True]


def test_the_selection_takes_no_dead_and_no_rare_latent_and_all_when_too_few() -> None:
    statistics = statistics_of(np.array([0.0, 1e-3, 1e-3, 1e-2, 0.0, 1e-3]))
    rare = np.array([False, True, False, False, False, False])
    chosen = select_latents(
        statistics, rare, np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, int), SelectConfig(n_latents=24), 0
    )
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
    triggers = one.statistics.triggers
    assert {row.trigger for row in rows} > {None}
    for row, cover in zip(rows, triggers.cover, strict=True):
        first = triggers.token[triggers.of(row.latent.index)][:1]
        assert row.trigger == (one.vocabulary.text(first) if cover >= 0.5 else None)
