"""Calibration: small cases by hand, and planted judges mended on latents that the fit did not see."""

import numpy as np
import pytest
from numpy import ndarray
from scipy.special import expit, logit

from outcrop.metrics.calibration import (
    CLIP,
    Calibration,
    brier,
    calibrate,
    log_loss,
    natural_weights,
    posterior,
    reliability,
)
from tests.proofs.calibration import JUDGES, Judgements, judged, mended

HALF = np.array([0.5, 0.5])


def calibrated(judgements: Judgements, seed: int = 0) -> Calibration:
    j = judgements
    return calibrate(j.probability, j.activating, j.weight, j.latent, np.random.default_rng(seed))


def alike(
    n_latents: int, yes_activating: int, yes_other: int, of: int = 10
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Latents that all get the same yes (0.9) and no (0.1) answers on `of` windows of either class."""
    answers = np.where(np.arange(of)[:, None] < [yes_activating, yes_other], 0.9, 0.1).T.ravel()
    activating = np.repeat([True, False], of)
    latent = np.repeat(np.arange(n_latents), 2 * of)
    return np.tile(answers, n_latents), np.tile(activating, n_latents), np.full(len(latent), 1 / of), latent


def test_two_answers_get_the_logarithm_of_how_much_oftener_each_is_given_where_the_latent_fires() -> None:
    """Yes on 8 of 10 and on 2 of 10: ± log 4, less what softening takes."""
    p, activating, weight, latent = alike(1_000, 8, 2)
    ratio = calibrate(p, activating, weight, latent, np.random.default_rng(0)).log_likelihood_ratio
    assert ratio[p > 0.5] == pytest.approx(np.log(4), abs=2e-3)
    assert ratio[p < 0.5] == pytest.approx(-np.log(4), abs=2e-3)


def test_prevalence_moves_the_posterior_by_bayes_rule() -> None:
    """At π = 1/10 and odds of 4 to 1: 4/13."""
    assert posterior(np.array([np.log(4), 0.0]), 0.1) == pytest.approx([4 / 13, 0.1])


def test_classes_that_separate_perfectly_stay_finite_at_log_n_plus_one() -> None:
    """Platt's softened targets; 40 of 50 latents with 10 judgements of either class are fitted."""
    p, activating, weight, latent = alike(50, 10, 0)
    ratio = calibrate(p, activating, weight, latent, np.random.default_rng(0)).log_likelihood_ratio
    assert np.abs(ratio) == pytest.approx(np.log(401), abs=0.01)


def test_a_judge_worse_than_chance_says_nothing() -> None:
    p, activating, weight, latent = alike(20, 3, 7)
    calibration = calibrate(p, activating, weight, latent, np.random.default_rng(0))
    assert calibration.slope == pytest.approx(np.zeros(5))
    assert posterior(calibration.log_likelihood_ratio, 0.01) == pytest.approx(0.01)


def test_a_judge_that_always_says_the_same_says_nothing() -> None:
    p, activating, weight, latent = alike(20, 10, 10)
    assert calibrate(p, activating, weight, latent, np.random.default_rng(0)).log_likelihood_ratio == pytest.approx(0)


def test_answers_of_zero_and_one_stay_finite() -> None:
    p, activating, weight, latent = alike(300, 9, 1)
    ratio = calibrate(np.round(p), activating, weight, latent, np.random.default_rng(0)).log_likelihood_ratio
    assert np.abs(ratio) == pytest.approx(np.log(9), abs=0.02)


@pytest.mark.parametrize("n_latents", [0, 1])
def test_fewer_than_two_latents_leave_nothing_to_fit_to(n_latents: int) -> None:
    p, activating, weight, latent = alike(n_latents, 8, 2)
    calibration = calibrate(p, activating, weight, latent, np.random.default_rng(0))
    assert len(calibration.log_likelihood_ratio) == len(p)
    assert np.isnan(calibration.log_likelihood_ratio).all()


def test_one_class_alone_is_missing() -> None:
    p, activating, weight, latent = alike(20, 8, 2)
    calibration = calibrate(p[activating], activating[activating], weight[activating], latent[activating],
                            np.random.default_rng(0))  # fmt: skip
    assert np.isnan(calibration.log_likelihood_ratio).all()
    assert np.isnan(calibration.slope).all()


def test_all_judgements_of_a_latent_share_a_fold_and_folds_have_equally_many_latents() -> None:
    calibration = calibrated(judged(JUDGES["over-confident"], 23, np.random.default_rng(0)))
    folds = calibration.fold.reshape(23, -1)
    assert (folds == folds[:, :1]).all()
    assert sorted(np.bincount(folds[:, 0])) == [4, 4, 5, 5, 5]


def test_what_a_latent_really_fires_on_does_not_bear_on_its_own_ratios() -> None:
    j = judged(JUDGES["under-confident"], 10, np.random.default_rng(0))
    first = j.latent == 0
    turned = calibrate(j.probability, j.activating ^ first, j.weight, j.latent, np.random.default_rng(0))
    change = turned.log_likelihood_ratio - calibrated(j).log_likelihood_ratio
    assert change[first] == pytest.approx(0, abs=1e-9)
    assert np.abs(change[turned.fold != turned.fold[0]]).max() > 0.1


def _curve(x: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
    order = np.argsort(x)
    return x[order], y[order]


def test_weights_undo_over_sampling_of_hard_negatives() -> None:
    """Hard windows are half of those judged and 2% of the corpus; the ratio is the corpus's."""
    p, activating, _, latent = alike(2_000, 8, 6)  # the judge errs on all 5 hard windows and 1 of 5 others
    hard = np.tile(np.arange(20) - 10, 2_000)
    weight = np.where(activating, 0.1, np.where(hard < 5, 0.02 / 5, 0.98 / 5))
    ratio = calibrate(p, activating, weight, latent, np.random.default_rng(0)).log_likelihood_ratio
    alarms = 0.02 + 0.98 / 5
    assert ratio[p > 0.5] == pytest.approx(np.log(0.8 / alarms), abs=5e-3)
    assert ratio[p < 0.5] == pytest.approx(np.log(0.2 / (1 - alarms)), abs=5e-3)


@pytest.mark.parametrize("judge", ["over-confident", "under-confident", "biased towards yes", "rounded to tenths"])
def test_planted_judges_are_mended_on_held_out_latents(judge: str) -> None:
    j = judged(JUDGES[judge], 500, np.random.default_rng(1))
    after, _ = mended(j, np.random.default_rng(2))
    for measure in (brier, log_loss):
        best = measure(j.truth, j.activating, j.natural)
        assert measure(after, j.activating, j.natural) < best * 1.15
        assert measure(j.probability, j.activating, j.natural) > best * 4
    assert reliability(after, j.activating, j.natural).error < 2e-3
    assert reliability(j.probability, j.activating, j.natural).error > 0.05


@pytest.mark.parametrize("judge", ["over-confident", "under-confident", "biased towards yes"])
def test_a_posterior_above_one_half_is_the_bayes_decision_at_the_natural_rate(judge: str) -> None:
    j = judged(JUDGES[judge], 500, np.random.default_rng(3))
    after, _ = mended(j, np.random.default_rng(4))
    best = j.truth > 0.5

    def agreement(p: ndarray) -> float:
        return float(j.natural @ ((p > 0.5) == best) / j.natural.sum())

    assert agreement(after) > 0.997
    assert agreement(j.probability) < 0.95


def test_a_judge_told_the_rate_is_calibrated_by_itself() -> None:
    j = judged(JUDGES["told the rate, over-confident"], 500, np.random.default_rng(5))
    after, _ = mended(j, np.random.default_rng(6), told=True)
    best = log_loss(j.truth, j.activating, j.natural)
    assert log_loss(after, j.activating, j.natural) < best * 1.05
    assert log_loss(j.probability, j.activating, j.natural) > best * 1.2


def test_isotonic_regression_is_taken_where_answers_are_rounded_and_left_where_the_line_holds() -> None:
    rng = np.random.default_rng(7)
    assert calibrated(judged(JUDGES["rounded to tenths"], 300, rng)).isotonic.all()
    assert not calibrated(judged(JUDGES["under-confident"], 300, rng)).isotonic.any()


def test_isotonic_regression_needs_a_thousand_judgements() -> None:
    assert not calibrated(judged(JUDGES["rounded to tenths"], 17, np.random.default_rng(8))).isotonic.any()


def test_ratios_never_fall_as_the_probability_rises() -> None:
    j = judged(JUDGES["rounded to tenths"], 300, np.random.default_rng(9))
    calibration = calibrated(j)
    for fold in range(5):
        held = calibration.fold == fold
        _, ratio = _curve(j.probability[held], calibration.log_likelihood_ratio[held])
        assert np.isfinite(ratio).all()
        assert (np.diff(ratio) >= -1e-9).all()


def test_natural_weights_count_each_latent_once_at_its_own_rate() -> None:
    """Of latent 1 no other windows were judged; it counts for nothing."""
    weight, latent = np.array([0.5, 0.5, 1.0, 1.0]), np.array([0, 0, 0, 1])
    activating, prevalence = np.array([True, True, False, True]), np.array([0.1, 0.1, 0.1, 0.3])
    assert natural_weights(weight, activating, latent, prevalence) == pytest.approx([0.05, 0.05, 0.9, 0])


def test_scores_by_hand() -> None:
    p, activating, weight = np.array([0.8, 0.4]), np.array([True, False]), np.array([0.25, 0.75])
    assert brier(p, activating, weight) == pytest.approx(0.25 * 0.04 + 0.75 * 0.16)
    assert log_loss(p, activating, weight) == pytest.approx(-0.25 * np.log(0.8) - 0.75 * np.log(0.6))


def test_certainty_that_errs_costs_a_finite_log_loss() -> None:
    assert log_loss(np.array([0.0]), np.array([True]), np.ones(1)) == pytest.approx(-np.log(CLIP))


def test_a_reliability_table_by_hand() -> None:
    p, activating = np.array([0.9, 0.1, 0.7, 0.2]), np.array([True, False, False, False])
    table = reliability(p, activating, np.ones(4), n_bins=2)
    assert table.predicted == pytest.approx([0.15, 0.8])
    assert table.observed == pytest.approx([0, 0.5])
    assert (table.weight.tolist(), table.n.tolist()) == ([0.5, 0.5], [2, 2])
    assert table.error == pytest.approx(0.5 * 0.15 + 0.5 * 0.3)


def test_equal_probabilities_are_never_parted_into_bins() -> None:
    """Sorted apart, 50 windows that fire and 50 that do not would seem miscalibrated."""
    table = reliability(np.full(100, 0.5), np.arange(100) < 50, np.ones(100))
    assert table.n.tolist() == [100]
    assert table.error == pytest.approx(0)


def test_bins_hold_equal_weight() -> None:
    rng = np.random.default_rng(10)
    table = reliability(rng.random(30_000), rng.random(30_000) < 0.5, rng.random(30_000))
    assert len(table.n) == 15
    assert table.weight == pytest.approx(1 / 15, abs=1e-3)


def test_nothing_judged_and_nothing_calibrated_are_missing() -> None:
    empty = np.empty(0)
    for values in (empty, np.array([np.nan, np.nan])):
        activating, weight = np.arange(len(values)) < 1, np.ones(len(values))
        scores = [brier(values, activating, weight), log_loss(values, activating, weight)]
        assert np.isnan([*scores, reliability(values, activating, weight).error]).all()


def test_the_natural_posterior_of_a_calibrated_judge_is_its_ratio_moved_by_the_prior() -> None:
    j = judged(JUDGES["calibrated at ½"], 1_000, np.random.default_rng(11))
    calibration = calibrated(j)
    assert calibration.slope == pytest.approx(np.ones(5), abs=0.05)
    moved = expit(logit(j.probability) + logit(j.prevalence))
    after = posterior(calibration.log_likelihood_ratio, j.prevalence)
    assert np.abs(after - moved).max() < 0.05
