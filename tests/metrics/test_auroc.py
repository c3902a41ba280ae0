"""AUROC: by counting pairs, with strata, ties and missing parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outcrop.metrics.auroc import auroc
from outcrop.metrics.rates import Sampling


def sampling(draws: int = 1_000) -> Sampling:
    return Sampling(np.random.default_rng(0), draws, 0.95)


def test_ties_count_half() -> None:
    estimate = auroc([np.array([0.9, 0.5])], [np.array([0.5, 0.1])], [1.0], [1.0], sampling())
    assert estimate.value == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_strata_are_weighted_and_not_pooled() -> None:
    """Against the easy stratum 1, against the hard one 0: the value is the easy one's share."""
    up, easy, hard = np.array([0.5]), np.full(2, 0.1), np.full(50, 0.9)
    assert auroc([up], [easy, hard], [1.0], [0.9, 0.1], sampling()).value == pytest.approx(0.9)


def test_a_stratum_without_weight_is_left_out() -> None:
    up, down, other = np.array([0.5]), np.array([0.1]), np.array([0.9])
    assert auroc([up], [down, other], [1.0], [1.0, 0.0], sampling()).value == 1


def test_a_stratum_with_weight_but_no_probability_makes_it_missing() -> None:
    up, down, none = np.array([0.5]), np.array([0.1]), np.array([])
    assert np.isnan(auroc([up], [down, none], [1.0], [0.9, 0.1], sampling()).value)


def test_a_sample_that_separates_perfectly_has_a_value_but_no_interval() -> None:
    estimate = auroc([np.array([0.8, 0.9])], [np.array([0.1, 0.2])], [1.0], [1.0], sampling())
    assert estimate.value == 1
    assert np.isnan([estimate.low, estimate.high]).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_value_is_the_weighted_share_of_pairs_won(data: st.DataObject) -> None:
    scores = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7]), min_size=1, max_size=5)
    up, down = ([np.array(data.draw(scores)) for _ in range(2)] for _ in range(2))
    u, v = (0.5, 0.5), (0.8, 0.2)
    pairs = [
        (wu / len(us) * wv / len(vs), (p > q) + 0.5 * (p == q))
        for us, wu in zip(up, u, strict=True)
        for vs, wv in zip(down, v, strict=True)
        for p in us
        for q in vs
    ]
    estimate = auroc(up, down, u, v, sampling(100))
    assert estimate.value == pytest.approx(sum(w * won for w, won in pairs))
    if not np.isnan(estimate.low):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_the_bootstrap_covers_the_truth() -> None:
    """Normal scores one standard deviation apart: AUROC = Φ(1/√2) = 0.760."""
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(200):
        up, down = rng.normal(1, 1, size=20), rng.normal(0, 1, size=30)
        estimate = auroc([up[:10], up[10:]], [down[:20], down[20:]], [0.5, 0.5], [0.6, 0.4], sampling(300))
        covered.append(estimate.low <= 0.760 <= estimate.high)
    assert np.mean(covered) > 0.88
