"""Perfect latents as seen, which fall with the number of judgements, and in truth, which stay."""

import numpy as np
import pytest
from scipy import stats

from outcrop.metrics.perfect import expected_perfect_share, perfect_share, share_truly_above, wilson
from outcrop.metrics.rates import Estimate, weighted_rate
from tests.proofs.perfect import POPULATIONS, Population


def drawn() -> np.random.Generator:
    return np.random.default_rng(0)


def truly_above(population: Population, n_latents: int, n: int, seed: int = 0) -> tuple[float, Estimate]:
    """The planted share, and its estimate from n judgements of either class."""
    rng = np.random.default_rng(seed)
    tpr, tnr = population(rng, n_latents)
    size = np.full(n_latents, n)
    estimate = share_truly_above(rng.binomial(n, tpr), size, rng.binomial(n, tnr), size, drawn(), 0.95)
    return float(np.mean((tpr + tnr) / 2 > 0.9)), estimate


def test_failed_latents_and_those_with_too_few_examples_are_imperfect() -> None:
    """Right on all 40, on 39, on all of too few, failed."""
    right, n, enough = np.array([40, 39, 12, 0]), np.array([40, 40, 12, 0]), np.array([True, True, False, False])
    share = perfect_share(right, n, enough, n_alive=8, n_all=10, confidence=0.95)
    assert [float(part.value) for part in (share.of_scored, share.of_alive, share.of_all)] == [1 / 4, 1 / 8, 1 / 10]
    assert share.n_examples == 40


def test_differing_numbers_of_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="40 to 50"):
        perfect_share(np.array([40, 50]), np.array([40, 50]), np.array([True, True]), 2, 2, 0.95)


def test_without_latents_the_share_is_missing() -> None:
    none = np.empty(0, dtype=np.int64)
    share = perfect_share(none, none, none.astype(bool), 0, 10, 0.95)
    assert np.isnan([share.of_scored.value, share.of_scored.low, share.of_scored.high, share.of_alive.value]).all()
    assert share.of_all.value == 0


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10)])
def test_wilson_is_what_scipy_gives(hits: int, n: int) -> None:
    ours, theirs = wilson(hits, n, 0.95), stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert [float(ours.low), float(ours.high)] == pytest.approx([theirs.low, theirs.high])


def test_ninety_nine_percent_right_is_perfect_on_a_hundred_for_thirty_seven_percent_of_latents() -> None:
    assert expected_perfect_share(np.array([0.99]), np.array([100])) == pytest.approx(0.366, abs=1e-3)
    assert expected_perfect_share(np.array([0.9, 0.99]), np.array([2, 1])) == pytest.approx(0.9**2 * 0.99)


@pytest.mark.parametrize("n", [40, 100, 200])
@pytest.mark.parametrize("accuracy", [0.9, 0.95, 0.99, 0.999])
def test_the_perfect_share_is_accuracy_to_the_power_of_n(accuracy: float, n: int) -> None:
    right, latents = np.random.default_rng(n).binomial(n, accuracy, 20_000), np.ones(20_000, dtype=bool)
    share = perfect_share(right, np.full(20_000, n), latents, 20_000, 20_000, 0.999).of_scored
    assert share.low <= expected_perfect_share(np.array([accuracy]), np.array([n])) <= share.high


@pytest.mark.parametrize("name", [name for name in POPULATIONS if name != "all at 0.92"])
def test_the_share_truly_above_is_the_planted_one_whatever_the_number_of_examples(name: str) -> None:
    """Within 0.04: atoms of latents at the very ends are the hardest, with 20 examples."""
    for n in (20, 50, 100):
        truth, estimate = truly_above(POPULATIONS[name], 3_000, n)
        assert estimate.value == pytest.approx(truth, abs=0.04)


def test_the_share_truly_above_stays_where_the_perfect_share_falls() -> None:
    tpr, tnr = POPULATIONS["correlated"](np.random.default_rng(0), 5_000)
    estimates, perfect = [], []
    for n in (20, 50, 100):
        estimates.append(truly_above(POPULATIONS["correlated"], 5_000, n)[1].value)
        perfect.append(np.mean(tpr**n * tnr**n))
    assert np.ptp(estimates) < 0.02
    assert perfect[-1] < perfect[0] / 5


def test_the_interval_covers_the_share_of_the_latents() -> None:
    covered = []
    for seed in range(40):
        truth, estimate = truly_above(POPULATIONS["good or useless"], 300, 20, seed)
        covered.append(estimate.low <= truth <= estimate.high)
    assert np.mean(covered) > 0.9


def test_fractional_counts_of_stratified_judgements_give_the_share_of_the_weighted_rates() -> None:
    """Hard windows are half of those judged and 10% of the corpus; raw counts would say far fewer are good."""
    rng = np.random.default_rng(1)
    tpr, easy = POPULATIONS["correlated"](rng, 5_000)
    tnr = np.stack([easy, easy**3], -1)
    hits, alarms = rng.binomial(40, tpr), rng.binomial(20, 1 - tnr)
    fpr, size = weighted_rate(alarms, [20, 20], [0.9, 0.1], 0.95), np.full(5_000, 40)
    weighted = share_truly_above(hits, size, (1 - fpr.measured.value) * fpr.size, fpr.size, drawn(), 0.95)
    raw = share_truly_above(hits, size, 40 - alarms.sum(-1), size, drawn(), 0.95)
    truth = np.mean((tpr + tnr @ [0.9, 0.1]) / 2 > 0.9)
    assert weighted.value == pytest.approx(truth, abs=0.02)
    assert raw.value < truth - 0.05


def test_latents_not_judged_in_both_classes_are_left_out() -> None:
    size, none = np.full(60, 20), np.zeros(60, dtype=np.int64)
    right = np.random.default_rng(2).binomial(20, 0.95, size=(2, 60))
    alone = share_truly_above(right[0], size, right[1], size, drawn(), 0.95)
    hits, rejections, sizes, halves = map(
        np.concatenate, ((right[0], none), (right[1], none), (size, size), (size, none))
    )
    both = share_truly_above(hits, sizes, rejections, halves, drawn(), 0.95)
    assert both.value == pytest.approx(alone.value)


def test_nothing_judged_is_missing() -> None:
    none = np.zeros(3)
    estimate = share_truly_above(none, none, none, none, drawn(), 0.95)
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_few_latents_and_equal_ones_have_a_share_but_no_interval() -> None:
    few, equal = np.arange(11, 21), np.full(100, 20)
    for right in (few, equal):
        size = np.full(len(right), 20)
        estimate = share_truly_above(right, size, right, size, drawn(), 0.95)
        assert 0 <= estimate.value <= 1
        assert np.isnan([estimate.low, estimate.high]).all()


def test_all_right_is_nearly_all_good_and_all_wrong_is_none() -> None:
    size = np.full(100, 50)
    assert share_truly_above(size, size, size, size, drawn(), 0.95).value > 0.99
    assert share_truly_above(0 * size, size, size, size, drawn(), 0.95).value < 1e-6
