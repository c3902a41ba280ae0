"""What random negatives hide, and what the token alone explains."""

import numpy as np
import pytest

from outcrop.metrics.forms import estimate
from outcrop.metrics.rates import Rate, weighted_rate
from outcrop.metrics.tokens import BEYOND_TOKENS, TOKEN_ILLUSION


def rate(hits: int, n: int, weight: float = 1.0) -> Rate:
    return weighted_rate([hits], [n], [weight], 0.95)


def test_token_illusion_is_the_rise_of_false_alarms_on_trigger_tokens() -> None:
    found = estimate(TOKEN_ILLUSION, (rate(8, 10), rate(1, 20)))
    assert found.value == pytest.approx(0.75)
    assert 0.3 < found.low < 0.75 < found.high < 1


def test_token_illusion_is_missing_without_a_same_token_stratum() -> None:
    found = estimate(TOKEN_ILLUSION, (rate(0, 0, weight=0.0), rate(1, 20)))
    assert np.isnan([found.value, found.low, found.high]).all()


def test_beyond_tokens_is_the_difference_of_both_informednesses() -> None:
    found = estimate(BEYOND_TOKENS, (rate(18, 20), rate(3, 30), rate(19, 20), rate(9, 30)))
    assert found.value == pytest.approx((0.9 - 0.1) - (0.95 - 0.3))
    assert found.low < found.value < found.high


def test_an_explanation_that_is_the_token_baseline_adds_nothing() -> None:
    same = (rate(18, 20), rate(3, 30))
    found = estimate(BEYOND_TOKENS, (*same, *same))
    assert found.value == pytest.approx(0)
    assert found.low < 0 < found.high
