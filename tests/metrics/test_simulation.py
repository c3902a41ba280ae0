from __future__ import annotations

import numpy as np
import pytest

from outcrop.metrics.simulation import correlation


def moments(true: np.ndarray, predicted: np.ndarray) -> list[float]:
    n, a, p = float(len(true)), true.sum(), predicted.sum()
    return [n, a, p, (true**2).sum(), (predicted**2).sum(), (true * predicted).sum()]


def test_sums_over_windows_give_the_correlation_over_their_tokens() -> None:
    generator = np.random.default_rng(0)
    true = [generator.random(n) * (generator.random(n) < 0.3) for n in (4, 7, 16)]
    predicted = [np.round(10 * (one + generator.random(len(one))) / 2) / 10 for one in true]
    rows = np.array([moments(a, p) for a, p in zip(true, predicted, strict=True)])
    expected = np.corrcoef(np.concatenate(true), np.concatenate(predicted))[0, 1]
    assert correlation(rows.sum(axis=0)) == pytest.approx(expected, abs=1e-12)
    assert correlation(rows[1]) == pytest.approx(np.corrcoef(true[1], predicted[1])[0, 1], abs=1e-12)


def test_many_latents_at_once_give_what_each_gives_alone() -> None:
    generator = np.random.default_rng(1)
    sums = np.array([moments(generator.random(5), generator.random(5)) for _ in range(3)])
    assert correlation(sums).tolist() == [float(correlation(one)) for one in sums]


def test_a_perfect_prediction_correlates_fully() -> None:
    a = np.array([0.0, 0.3, 0.0, 1.0])
    assert correlation(np.array(moments(a, 0.5 * a))) == pytest.approx(1)
    assert correlation(np.array(moments(a, 1 - a))) == pytest.approx(-1)


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_without_variance_there_is_no_correlation(constant: float) -> None:
    varied, same = np.tile([0.0, 0.1, 0.7], 11), np.full(33, constant)
    assert np.isnan(correlation(7 * np.array(moments(varied, same))))
    assert np.isnan(correlation(7 * np.array(moments(same, varied))))


def test_without_a_window_there_is_no_correlation() -> None:
    assert np.isnan(correlation(np.zeros(6)))
