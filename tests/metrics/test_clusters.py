"""How much judgements of one document go together is recovered, and counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import ndarray

from outcrop.metrics.clusters import design_effect, intraclass_correlation

ALONE = np.zeros(4, dtype=np.int64)


def planted(rho: float, n_subjects: int, sizes: tuple[int, ...], seed: int) -> tuple[ndarray, ...]:
    """Judgements of two cells per subject, whose documents have these sizes and reach into both cells."""
    generator = np.random.default_rng(seed)
    document = np.repeat(np.arange(len(sizes)), sizes)
    subject, cluster = (part.ravel() for part in np.indices((n_subjects, len(document))))
    cell = generator.integers(2, size=len(subject))
    cluster = document[cluster]
    rate = generator.uniform(0.2, 0.8, (n_subjects, 1))[subject, 0]
    same = generator.random((n_subjects, len(sizes)))[subject, cluster]
    copied = generator.random(len(subject)) < np.sqrt(rho)  # two that both copy their document agree
    x = np.where(copied, same, generator.random(len(subject))) < rate
    return x.astype(float), subject, cell, np.where(np.array(sizes)[cluster] > 1, cluster, -1)


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.6])
def test_the_planted_correlation_is_found_whatever_the_size_of_documents(rho: float) -> None:
    found = [intraclass_correlation(*planted(rho, 2_000, sizes, 1)) for sizes in ((2,) * 10, (1,) * 6 + (2, 3, 8))]
    assert found == pytest.approx([rho, rho], abs=0.03)


def test_a_correlation_without_pairs_or_without_variance_is_missing() -> None:
    x = np.array([1.0, 0.0, 1.0, 1.0])
    assert np.isnan(intraclass_correlation(x, ALONE, ALONE, ALONE - 1))
    assert np.isnan(intraclass_correlation(np.ones(4), ALONE, ALONE, ALONE))


def test_a_correlation_of_few_pairs_is_missing() -> None:
    few, more = (planted(0.5, n, (2,) * 10, 3) for n in (5, 50))
    assert np.isnan(intraclass_correlation(*few))
    assert 0 < intraclass_correlation(*more) < 1


def test_the_design_effect_of_equal_weights_is_that_of_kish() -> None:
    subject, cluster = np.repeat([0, 1], 4), np.array([0, 0, 0, 0, 7, 7, 8, -1])
    found = design_effect(np.ones(8), subject, cluster, 3, 0.5)
    assert found == pytest.approx([1 + 3 * 0.5, 1 + 0.5 * 2 / 4, 1])


def test_windows_that_weigh_next_to_nothing_do_not_count() -> None:
    weight, cluster = np.array([1.0, 1e-9, 1.0]), np.array([0, 0, -1])
    assert design_effect(weight, np.zeros(3, dtype=np.int64), cluster, 1, 0.9) == pytest.approx([1], abs=1e-8)


def test_a_missing_correlation_costs_nothing() -> None:
    assert design_effect(np.ones(4), ALONE, ALONE, 1, float("nan")) == pytest.approx([1])
