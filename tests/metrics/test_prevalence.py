"""What a rate means where latents are silent nearly everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcrop.metrics.prevalence import (
    accuracy_skill,
    at_prevalence,
    breadth,
    f1,
    precision,
    predicted_rate,
    true_accuracy,
)
from outcrop.metrics.rates import weighted_rate

unit = st.floats(0, 1)


def a(value: float) -> np.ndarray:
    return np.array(value)


def test_every_formula_by_hand() -> None:
    tpr, fpr, prevalence = a(0.8), a(0.05), a(0.01)
    assert predicted_rate(prevalence)(tpr, fpr) == pytest.approx(0.008 + 0.0495)
    assert true_accuracy(prevalence)(tpr, fpr) == pytest.approx(0.008 + 0.9405)
    assert accuracy_skill(prevalence)(tpr, fpr) == pytest.approx((0.9485 - 0.99) / 0.01)
    assert precision(prevalence)(tpr, fpr) == pytest.approx(0.008 / 0.0575)
    assert f1(prevalence)(tpr, fpr) == pytest.approx(2 * 0.008 / (0.0575 + 0.01))
    assert breadth(prevalence)(tpr, fpr) == pytest.approx(5.75)


def test_skill_is_zero_for_whoever_always_gives_the_commoner_answer() -> None:
    assert accuracy_skill(a(1e-6))(a(0.0), a(0.0)) == 0
    assert accuracy_skill(a(0.7))(a(1.0), a(1.0)) == 0


def test_one_false_alarm_in_twenty_makes_a_perfect_recogniser_of_rare_windows_worse_than_silence() -> None:
    assert accuracy_skill(a(1 / 800))(a(1.0), a(0.05)) < -30


@given(unit, unit, st.floats(0.001, 0.999))
def test_skill_is_the_quotient_of_its_definition(tpr: float, fpr: float, prevalence: float) -> None:
    accuracy = true_accuracy(a(prevalence))(a(tpr), a(fpr))
    by_definition = (accuracy - max(prevalence, 1 - prevalence)) / min(prevalence, 1 - prevalence)
    assert accuracy_skill(a(prevalence))(a(tpr), a(fpr)) == pytest.approx(by_definition, abs=1e-9)


@given(unit, unit, unit)
def test_what_is_a_share_lies_in_zero_to_one(tpr: float, fpr: float, prevalence: float) -> None:
    for formula in (true_accuracy, predicted_rate, precision, f1):
        value = formula(a(prevalence))(a(tpr), a(fpr))
        assert np.isnan(value) or -1e-12 <= value <= 1 + 1e-12


def test_precision_is_missing_where_nothing_is_predicted() -> None:
    assert np.isnan(precision(a(0.1))(a(0.0), a(0.0)))


def test_breadth_and_skill_are_missing_for_a_latent_that_never_fires() -> None:
    assert np.isnan(breadth(a(0.0))(a(0.5), a(0.1)))
    assert np.isnan(accuracy_skill(a(0.0))(a(0.5), a(0.1)))


def test_precision_at_a_thousandth_is_as_uncertain_as_fifty_negatives_leave_it() -> None:
    tpr, fpr = weighted_rate([20], [20], [1.0], 0.95), weighted_rate([0], [50], [1.0], 0.95)
    estimate = at_prevalence(tpr, fpr, a(1e-3))["precision"]
    assert estimate.value == 1
    assert estimate.low < 0.05
    assert estimate.high == 1


def test_a_missing_false_positive_rate_leaves_bounds_of_the_breadth_but_no_value() -> None:
    tpr, fpr = weighted_rate([20], [20], [1.0], 0.95), weighted_rate([0, 0], [50, 0], [0.98, 0.02], 0.95)
    estimate = at_prevalence(tpr, fpr, a(0.01))["breadth"]
    assert np.isnan(estimate.value)
    assert estimate.low < 1.2
    assert estimate.high > 2.9
