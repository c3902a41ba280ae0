"""Formulas of rates: intervals by hand, what they keep at the ends of their range, and what a gap does to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outcrop.metrics.accuracy import BALANCED_ACCURACY, CHANCE_CORRECTED, INFORMEDNESS
from outcrop.metrics.forms import Linear, Quotient, estimate
from outcrop.metrics.rates import Rate, weighted_rate


def rate(hits: int, n: int) -> Rate:
    return weighted_rate([hits], [n], [1.0], 0.95)


def test_the_interval_of_a_difference_is_the_root_of_the_squared_distances() -> None:
    first, second = rate(7, 10), rate(2, 12)
    found = estimate(Linear((1, -1)), (first, second))
    below = np.hypot(first.value - first.low, second.high - second.value)
    above = np.hypot(first.high - first.value, second.value - second.low)
    assert found.value == pytest.approx(0.7 - 1 / 6)
    assert (found.low, found.high) == (pytest.approx(found.value - below), pytest.approx(found.value + above))


def test_the_interval_of_one_rate_is_its_own() -> None:
    one = rate(3, 20)
    found = estimate(Linear((1,)), (one,))
    assert (found.low, found.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_a_quotient_ends_where_an_end_of_top_less_c_bottom_is_zero() -> None:
    rates, top, bottom = (rate(12, 20), rate(9, 30)), Linear((1, 0)), Linear((1, 1))
    found = estimate(Quotient(top, bottom), rates)
    assert found.value == pytest.approx(0.6 / 0.9)
    assert estimate(top.minus(found.low, bottom), rates).low == pytest.approx(0, abs=1e-9)
    assert estimate(top.minus(found.high, bottom), rates).high == pytest.approx(0, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 20), st.integers(0, 30), st.floats(1e-4, 0.5))
def test_a_quotient_lies_in_its_interval_and_both_in_its_range(hits: int, alarms: int, prevalence: float) -> None:
    precision = Quotient(Linear((prevalence, 0)), Linear((prevalence, 1 - prevalence)))
    found = estimate(precision, (rate(hits, 20), rate(alarms, 30)))
    assert 0 <= found.low <= found.high <= 1
    assert np.isnan(found.value) or found.low <= found.value <= found.high


def test_balanced_accuracy_and_informedness_by_hand() -> None:
    tpr, fpr = weighted_rate([8], [10], [1.0], 0.95), weighted_rate([1], [10], [1.0], 0.95)
    accuracy = estimate(BALANCED_ACCURACY, (tpr, fpr))
    j = estimate(INFORMEDNESS, (tpr, fpr))
    assert accuracy.value == pytest.approx(0.85)
    assert j.value == pytest.approx(0.7)
    assert 0 < accuracy.low < 0.85 < accuracy.high < 1
    assert (j.low, j.high) == (pytest.approx(2 * accuracy.low - 1), pytest.approx(2 * accuracy.high - 1))


def test_a_perfect_score_lies_in_its_interval() -> None:
    perfect = (weighted_rate([20], [20], [1.0], 0.95), weighted_rate([0], [30], [1.0], 0.95))
    j = estimate(INFORMEDNESS, perfect)
    assert j.high == j.value == 1
    assert j.low < 0.9


def test_a_gap_of_the_false_positive_rate_is_carried_into_the_bounds_of_j() -> None:
    tpr, whole = weighted_rate([20], [20], [1.0], 0.95), weighted_rate([0], [20], [1.0], 0.95)
    gapped = weighted_rate([0, 0], [20, 0], [0.6, 0.4], 0.95)
    j, known = estimate(INFORMEDNESS, (tpr, gapped)), estimate(INFORMEDNESS, (tpr, whole))
    assert np.isnan(j.value)
    assert j.low < known.low - 0.3
    assert j.high == 1


def test_intervals_of_balanced_accuracy_cover() -> None:
    rng = np.random.default_rng(4)
    tpr = weighted_rate(rng.binomial(20, 0.8, size=(1_000, 1)), [20], [1.0], 0.95)
    fpr = weighted_rate(rng.binomial([20, 10], [0.05, 0.4], size=(1_000, 2)), [20, 10], [0.95, 0.05], 0.95)
    found = estimate(BALANCED_ACCURACY, (tpr, fpr))
    truth = (0.8 + 1 - (0.95 * 0.05 + 0.05 * 0.4)) / 2
    assert np.mean((found.low <= truth) & (truth <= found.high)) > 0.92


def test_correction_for_chance_is_zero_at_the_control_and_one_when_perfect() -> None:
    assert CHANCE_CORRECTED(0.6, 0.4, 0.6, 0.4) == 0
    assert CHANCE_CORRECTED(1.0, 0.0, 0.6, 0.4) == 1
    assert np.isnan(CHANCE_CORRECTED(0.6, 0.4, 1.0, 0.0))
