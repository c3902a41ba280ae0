"""What random negatives hide, and what the token alone explains."""

import numpy as np
import pytest

from outcrop.metrics.rates import Rate, Sampling, weighted_rate
from outcrop.metrics.tokens import beyond_tokens, token_illusion


def sampling() -> Sampling:
    return Sampling(np.random.default_rng(0), 2_000, 0.95)


def rate(hits: int, n: int, weight: float = 1.0) -> Rate:
    return weighted_rate([hits], [n], [weight], 0.95)


def test_token_illusion_is_the_rise_of_false_alarms_on_trigger_tokens() -> None:
    estimate = token_illusion(rate(8, 10), rate(1, 20), sampling())
    assert estimate.value == pytest.approx(0.75)
    assert 0.3 < estimate.low < 0.75 < estimate.high < 1


def test_token_illusion_is_missing_without_a_same_token_stratum() -> None:
    estimate = token_illusion(rate(0, 0, weight=0.0), rate(1, 20), sampling())
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_beyond_tokens_is_the_difference_of_both_informednesses() -> None:
    estimate = beyond_tokens(rate(18, 20), rate(3, 30), rate(19, 20), rate(9, 30), sampling())
    assert estimate.value == pytest.approx((0.9 - 0.1) - (0.95 - 0.3))
    assert estimate.low < estimate.value < estimate.high


def test_an_explanation_that_is_the_token_baseline_adds_nothing() -> None:
    same = (rate(18, 20), rate(3, 30))
    estimate = beyond_tokens(*same, *same, sampling())
    assert estimate.value == 0
    assert estimate.low < 0 < estimate.high
