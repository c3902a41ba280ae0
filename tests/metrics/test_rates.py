"""Weighted rates: values by hand, intervals by simulation, missing parts carried in the bounds."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from outcrop.metrics.rates import weighted_rate


def test_one_stratum_gives_the_jeffreys_interval() -> None:
    rate = weighted_rate([7], [20], [1.0], 0.95)
    assert rate.value == 0.35
    assert rate.low == pytest.approx(stats.beta.ppf(0.025, 7.5, 13.5))
    assert rate.high == pytest.approx(stats.beta.ppf(0.975, 7.5, 13.5))


def test_no_hit_among_fifty_still_leaves_about_five_percent() -> None:
    rate = weighted_rate([0], [50], [1.0], 0.95)
    assert (rate.value, rate.low) == (0, 0)
    assert rate.high == pytest.approx(0.05, abs=0.002)


def test_no_miss_puts_the_upper_end_at_one() -> None:
    rate = weighted_rate([5, 8], [5, 8], [0.5, 0.5], 0.95)
    assert (rate.value, rate.high) == (1, 1)
    assert rate.low < 0.9


def test_two_strata_by_hand() -> None:
    rate = weighted_rate([2, 1], [10, 4], [0.75, 0.25], 0.95)
    assert rate.value == pytest.approx(0.75 * 0.2 + 0.25 * 0.25)
    first, second = 2.5 / 11, 1.5 / 5
    pooled = 0.75 * first + 0.25 * second
    variance = 0.75**2 * first * (1 - first) / 10 + 0.25**2 * second * (1 - second) / 4
    n_eff = min(pooled * (1 - pooled) / variance, 1 / (0.75**2 / 10 + 0.25**2 / 4))
    beta = stats.beta(0.2125 * n_eff + 0.5, 0.7875 * n_eff + 0.5)
    assert (rate.low, rate.high) == (pytest.approx(beta.ppf(0.025)), pytest.approx(beta.ppf(0.975)))


def test_hits_in_small_strata_say_nothing_of_a_large_one_without_any() -> None:
    alone = weighted_rate([0], [20], [1.0], 0.95)
    beside = weighted_rate([0, 10], [20, 20], [0.98, 0.02], 0.95)
    assert beside.high > alone.high


def test_weights_undo_over_sampling_of_hard_negatives() -> None:
    """2% of non-activating windows are hard, half of those judged are; the rate is the corpus's."""
    rng = np.random.default_rng(1)
    hits = rng.binomial(400, [0.5, 0.01], size=(200, 2))
    rate = weighted_rate(hits, [400, 400], [0.02, 0.98], 0.95)
    assert rate.value.mean() == pytest.approx(0.02 * 0.5 + 0.98 * 0.01, rel=0.05)


def test_a_stratum_with_weight_but_no_judgement_makes_the_rate_missing_and_its_bounds_wider() -> None:
    full = weighted_rate([1], [20], [1.0], 0.95)
    rate = weighted_rate([0, 1], [0, 20], [0.1, 0.9], 0.95)
    assert np.isnan(rate.value)
    assert rate.low == pytest.approx(0.9 * full.low)
    assert rate.high == pytest.approx(0.9 * full.high + 0.1)


def test_a_stratum_without_weight_counts_for_nothing() -> None:
    with_it = weighted_rate([9, 3], [9, 12], [0.0, 1.0], 0.95)
    without = weighted_rate([3], [12], [1.0], 0.95)
    assert (with_it.value, with_it.low, with_it.high) == (without.value, without.low, without.high)


def test_without_any_weight_there_is_neither_value_nor_bound() -> None:
    rate = weighted_rate([3], [12], [0.0], 0.95)
    assert np.isnan([rate.value, rate.low, rate.high]).all()


def test_nothing_judged_is_missing_and_can_be_anything() -> None:
    rate = weighted_rate([0, 0], [0, 0], [0.5, 0.5], 0.95)
    assert np.isnan(rate.value)
    assert (rate.low, rate.high) == (0, 1)


def test_many_latents_at_once_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(2)
    n = rng.integers(1, 9, size=(6, 3))
    hits, weights = rng.binomial(n, 0.4), rng.dirichlet([1, 1, 1], size=6)
    together = weighted_rate(hits, n, weights, 0.9)
    for i in range(6):
        alone = weighted_rate(hits[i], n[i], weights[i], 0.9)
        assert (alone.value, alone.low, alone.high) == (together.value[i], together.low[i], together.high[i])


def test_judgements_that_go_together_count_as_fewer() -> None:
    alike = weighted_rate([5], [10], [1.0], 0.95)
    together = weighted_rate([10], [20], [1.0], 0.95, design=2.0)
    assert (together.value, together.size) == (alike.value, 10)
    assert [float(together.low), float(together.high)] == pytest.approx([float(alike.low), float(alike.high)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_rate_lies_in_its_interval_and_both_in_zero_to_one(data: st.DataObject) -> None:
    n = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    hits = [data.draw(st.integers(0, size)) for size in n]
    weights = data.draw(st.lists(st.floats(1e-6, 1), min_size=len(n), max_size=len(n)))
    rate = weighted_rate(hits, n, weights, 0.95)
    assert 0 <= rate.low <= rate.value + 1e-12
    assert rate.value - 1e-12 <= rate.high <= 1


@pytest.mark.parametrize("hard", [0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4])
def test_intervals_cover_on_average_and_never_fall_far_below(hard: float) -> None:
    """Exactly, over all outcomes of 20 + 10 judgements and a grid of true rates; nominal 95%.

    No interval for a binomial keeps its level everywhere: alone, the 20 fall to 90.5%.
    """
    n, weights = np.array([20, 10]), np.array([1 - hard, hard])
    hits = np.stack(np.meshgrid(np.arange(21), np.arange(11), indexing="ij"), -1).reshape(-1, 2)
    rate = weighted_rate(hits, n, weights, 0.95)
    coverages = []
    for rates in product([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5], [0.05, 0.1, 0.3, 0.5, 0.7, 0.9]):
        chance = stats.binom.pmf(hits, n, rates).prod(-1)
        truth = weights @ rates
        coverages.append(chance @ ((rate.low <= truth) & (truth <= rate.high)))
    assert np.mean(coverages) > 0.95
    assert np.min(coverages) > 0.9
