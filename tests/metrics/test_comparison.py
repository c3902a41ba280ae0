"""Differences of two runs: by hand, and a planted one found within bins of firing rate."""

import numpy as np
import pytest
from numpy import ndarray
from scipy import stats

from outcrop.metrics.comparison import Population, unpaired


def latents(score: ndarray, rate: ndarray, place: ndarray | None = None) -> Population:
    return Population(score, rate, np.zeros(len(score), dtype=np.int64) if place is None else place)


def test_one_bin_is_welchs_difference() -> None:
    first, second = np.array([0.2, 0.4, 0.6]), np.array([0.5, 0.7])
    found, n = unpaired(latents(first, np.ones(3)), latents(second, np.ones(2)), 0.95)
    assert n == 5
    assert found.value == pytest.approx(0.2)
    spread = np.array([0.04 / 3, 0.02 / 2])
    freedom = spread.sum() ** 2 / (spread**2 / [2, 1]).sum()
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(spread.sum()))


def test_latents_are_compared_with_those_that_fire_as_often() -> None:
    """Scores fall with the rate, and the second run has more frequent latents: the plain difference is wrong."""
    rng = np.random.default_rng(0)
    errors, plain, covered = [], [], []
    for _ in range(200):
        rates = 10 ** rng.uniform(-4, -1.5, 150), 10 ** rng.uniform(-3.5, -1, 150)
        first, second = (0.5 - 0.1 * np.log10(rate) + rng.normal(0, 0.1, 150) for rate in rates)
        second = second + 0.05
        found, _ = unpaired(latents(first, rates[0]), latents(second, rates[1]), 0.95)
        errors.append(found.value - 0.05)
        plain.append(second.mean() - first.mean() - 0.05)
        covered.append(found.low <= 0.05 <= found.high)
    assert abs(np.mean(errors)) < 0.006 < abs(np.mean(plain))
    assert np.mean(covered) > 0.9


def test_a_missing_score_is_left_out_and_where_nothing_meets_there_is_no_difference() -> None:
    missing, other = np.array([0.2, np.nan, 0.4]), np.array([0.3, 0.5])
    found, n = unpaired(latents(missing, np.ones(3)), latents(other, np.ones(2)), 0.95)
    assert (found.value, n) == (pytest.approx(0.1), 4)
    found, n = unpaired(latents(missing, np.full(3, 1e-5)), latents(other, np.full(2, 0.1)), 0.95)
    assert np.isnan(found.value) and n == 0
    found, n = unpaired(*[latents(np.array([np.nan]), np.ones(1))] * 2, 0.95)
    assert np.isnan(found.value) and n == 0


def test_latents_are_compared_with_those_of_their_place() -> None:
    """The second place scores higher, and the second run has more latents there; within places nothing differs."""
    low, high = np.array([0.1, 0.3]), np.array([0.7, 0.9])
    first = latents(np.r_[low, low, high], np.ones(6), np.array([0, 0, 0, 0, 1, 1]))
    second = latents(np.r_[low, high, high], np.ones(6), np.array([0, 0, 1, 1, 1, 1]))
    found, n = unpaired(first, second, 0.95)
    assert (found.value, n) == (pytest.approx(0), 12)
    alone, n = unpaired(first, latents(high, np.ones(2), np.array([1, 1])), 0.95)
    assert (alone.value, n) == (pytest.approx(0), 4)
