"""Averages over latents: whose weight counts, and who is left out."""

import numpy as np
import pytest

from outcrop.metrics.coverage import (
    coverage,
    effective_sample_size,
    group_shares,
    hajek_weights,
    macro_mean,
    median,
    status_counts,
    unscored_at,
    weighted_mean,
)

ONE_GROUP = np.zeros(3, dtype=np.int64)


def test_status_counts_add_up_and_name_every_status() -> None:
    counts = status_counts(["a", "b", "a"], ("a", "b", "c"))
    assert counts == {"a": 2, "b": 1, "c": 0}


def test_coverage_is_the_share_of_firing_and_unfired_latents_have_no_mass() -> None:
    assert coverage(np.array([0.1, 0.3, np.nan]), np.array([False, True, False])) == pytest.approx(0.75)
    assert np.isnan(coverage(np.zeros(2), np.array([True, False])))


def test_hajek_weights_give_back_the_mean_of_the_whole_dictionary() -> None:
    """Common latents are drawn ten times less often; their weight makes up for it."""
    rng = np.random.default_rng(6)
    rate = np.repeat([0.1, 0.001], 2_000)
    score = np.where(rate > 0.01, 0.9, 0.6) + rng.normal(0, 0.02, 4_000)
    probability = np.where(rate > 0.01, 0.05, 0.5)
    drawn = rng.random(4_000) < probability
    weights = hajek_weights(rate[drawn], probability[drawn])
    estimate = weighted_mean(score[drawn, None], weights, np.zeros(drawn.sum(), dtype=np.int64), 0.95)
    assert estimate.value[0] == pytest.approx(np.sum(rate * score) / rate.sum(), abs=0.01)


def test_effective_sample_size_is_n_for_equal_weights_and_one_when_one_latent_carries_all() -> None:
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == 1
    assert effective_sample_size(np.array([])) == 0


def test_groups_are_averaged_however_much_one_of_them_fires() -> None:
    scores, weights, groups = np.array([[1.0], [1.0], [0.0]]), np.array([5.0, 5.0, 0.1]), np.array([0, 0, 1])
    assert weighted_mean(scores, weights, groups, 0.95).value[0] == pytest.approx(0.5)
    assert group_shares(weights, groups).tolist() == [0.5, 0.5, 1.0]


def test_a_missing_score_is_left_out_of_its_own_metric_only() -> None:
    scores = np.array([[0.2, 1.0], [np.nan, 2.0], [0.4, 3.0]])
    estimate = weighted_mean(scores, np.array([1.0, 5.0, 3.0]), ONE_GROUP, 0.95)
    assert estimate.value == pytest.approx([(0.2 + 3 * 0.4) / 4, (1 + 10 + 9) / 9])


def test_the_macro_mean_counts_each_latent_once_and_its_interval_covers() -> None:
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(200):
        estimate = macro_mean(rng.beta(8, 2, size=(30, 1)), 0.95)
        covered.append(estimate.low[0] <= 0.8 <= estimate.high[0])
    assert np.mean(covered) > 0.91


def test_medians_hold_against_one_ruinous_skill() -> None:
    scores = np.array([[0.4], [0.5], [0.6], [0.7], [0.8], [0.9], [-900.0], [0.3]])
    estimate = median(scores, 0.95)
    assert estimate.value[0] == pytest.approx(0.55)
    assert (estimate.low[0], estimate.high[0]) == (-900, 0.9), (
        "the ends of eight: 1 − 2/2⁸ of all samples hold the median"
    )


def test_five_latents_are_too_few_for_an_interval_of_the_median() -> None:
    estimate = median(np.arange(5.0)[:, None], 0.95)
    assert estimate.value[0] == 2
    assert np.isnan([estimate.low[0], estimate.high[0]]).all()


def test_the_interval_of_a_mean_is_that_of_student() -> None:
    scores = np.array([[0.2], [0.5], [0.8]])
    estimate = macro_mean(scores, 0.95)
    reach = 4.302653 * np.std(scores, ddof=1) / np.sqrt(3)
    assert (estimate.low[0], estimate.high[0]) == (pytest.approx(0.5 - reach), pytest.approx(0.5 + reach))


def test_a_mean_that_one_latent_carries_has_no_interval_to_speak_of() -> None:
    scores = np.array([[0.9], [0.1], [0.5]])
    estimate = weighted_mean(scores, np.array([1.0, 0.001, 0.001]), ONE_GROUP, 0.95)
    assert estimate.high[0] - estimate.low[0] > 1


def test_nothing_to_average_is_missing() -> None:
    empty = np.empty((0, 2))
    for estimate in (macro_mean(empty, 0.95), median(empty, 0.95)):
        assert np.isnan(estimate.value).all()


def test_scores_that_are_equal_but_for_rounding_have_a_mean_and_no_interval() -> None:
    equal = np.array([[0.3], [0.1 + 0.2], [0.3]] * 4)
    assert np.ptp(equal) > 0
    for estimate in (macro_mean(equal, 0.95), median(equal, 0.95)):
        assert estimate.value[0] == pytest.approx(0.3)
        assert np.isnan([estimate.low[0], estimate.high[0]]).all()


def test_unscored_latents_stay_in_the_denominator() -> None:
    scores = np.array([0.9, 0.7, np.nan, np.nan])
    assert unscored_at(scores, 0.5).mean() == pytest.approx(0.65)
    assert unscored_at(scores, 1.0).mean() == pytest.approx(0.9)
