"""Do 95% intervals hold the planted truth in 95% of all draws?

A planted judge says yes to activating windows with a rate per quantile and to the others with a rate per stratum.
Quantiles lie a logit around the planted TPR; strata have very unequal shares and lie up to two logits above the
planted FPR. Where judgements are clustered, windows come in pairs of one document, and the second of a pair gets the
verdict of the first with a chance of `CORRELATION`, which is then the correlation within documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy import ndarray
from scipy.special import expit, logit

from outcrop.metrics.accuracy import BALANCED_ACCURACY
from outcrop.metrics.clusters import design_effect, intraclass_correlation
from outcrop.metrics.forms import Linear, Quotient, estimate
from outcrop.metrics.prevalence import f1, precision, true_accuracy
from outcrop.metrics.rates import Estimate, Rate, weighted_rate

RATES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
SIZES = ((5, 5), (5, 10), (5, 20), (10, 50))  # quantiles, windows in each and in every stratum
PREVALENCES = (1e-4, 1e-3, 1e-2, 0.1, 0.3)
SHARES = np.array([0.97, 0.02, 0.01])
CORRELATION = 0.3

_ABOVE = np.array([0.0, 1.0, 2.0])  # logits by which the strata lie above the planted FPR


def coverage(
    draws: int, sizes: tuple[tuple[int, int], ...] = SIZES, *, clustered: bool = False
) -> list[dict[str, Any]]:
    """[metric, size, tpr, fpr, prevalence, covered, width] of every cell of the grid."""
    generator = np.random.default_rng(0)
    cells = []
    for (n_quantiles, n), tpr, fpr in product(SIZES, RATES, RATES):
        planted = expit(logit(tpr) + np.linspace(-1, 1, n_quantiles)), expit(logit(fpr) + _ABOVE)
        even = np.full(n_quantiles, 1 / n_quantiles)
        rates = tuple(
            _judged(rate, n, weights, draws, clustered, generator)
            for rate, weights in zip(planted, (even, SHARES), strict=True)
        )
        truth = even @ planted[0], SHARES @ planted[1]
        for metric, prevalence, found, value in _metrics(rates, truth):
            covered = (found.low <= value) & (value <= found.high)
            cells.append(
                {
                    "metric": metric,
                    "size": f"{n_quantiles} × {n}",
                    "tpr": tpr,
                    "fpr": fpr,
                    "prevalence": prevalence,
                    "covered": float(covered.mean()),
                    "width": float((found.high - found.low).mean()),
                }
            )
    return cells


def table(draws: int, *, clustered: bool = False) -> list[dict[str, Any]]:
    """By metric and size: mean and least coverage over the cells, and the mean width."""
    cells = coverage(draws, clustered=clustered)
    keys = dict.fromkeys((cell["metric"], cell["size"]) for cell in cells)
    rows = []
    for metric, size in keys:
        mine = [cell for cell in cells if (cell["metric"], cell["size"]) == (metric, size)]
        covered = [cell["covered"] for cell in mine]
        width = float(np.mean([cell["width"] for cell in mine]))
        rows.append(
            {"metric": metric, "size": size, "mean": float(np.mean(covered)), "least": min(covered), "width": width}
        )
    return rows


def _metrics(rates: tuple[Rate, ...], truth: tuple[float, ...]) -> Iterator[tuple[str, float | None, Estimate, float]]:
    yield "TPR", None, rates[0], truth[0]
    yield "FPR", None, rates[1], truth[1]
    yield "balanced accuracy", None, *_of(BALANCED_ACCURACY, rates, truth)
    for prevalence in PREVALENCES:
        for name, form in (("true accuracy", true_accuracy), ("true precision", precision), ("true F1", f1)):
            yield name, prevalence, *_of(form(np.array(prevalence)), rates, truth)


def _of(form: Linear | Quotient, rates: tuple[Rate, ...], truth: tuple[float, ...]) -> tuple[Estimate, float]:
    return estimate(form, rates), float(form(*truth))


def _judged(
    rate: ndarray, n: int, weights: ndarray, draws: int, clustered: bool, generator: np.random.Generator
) -> Rate:
    yes = generator.random((draws, len(rate), n)) < rate[:, None]
    design = np.ones(draws)
    if clustered:
        pairs = n // 2
        same = generator.random((draws, len(rate), pairs)) < CORRELATION
        yes[..., pairs : 2 * pairs] = np.where(same, yes[..., :pairs], yes[..., pairs : 2 * pairs])
        draw, cell, window = (index.ravel() for index in np.indices(yes.shape))
        cluster = np.where(window < 2 * pairs, cell * n + window % pairs, -1)
        rho = intraclass_correlation(yes.ravel().astype(float), draw, cell, cluster)
        design = design_effect(weights[cell], draw, cluster, draws, rho)
    return weighted_rate(yes.sum(-1), [n] * len(rate), weights, 0.95, design)
