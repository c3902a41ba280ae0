"""Perfect latents against their expected share, and the share truly above 0.9 against planted populations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray
from scipy import optimize, special, stats

from outcrop.metrics.perfect import TRULY_GOOD, expected_perfect_share, perfect_share, share_truly_above

Rates = tuple[ndarray, ndarray]  # TPR and TNR of every latent
Population = Callable[[np.random.Generator, int], Rates]


def betas(a: float, b: float, c: float, d: float, correlation: float = 0.0) -> Population:
    """TPR ~ Beta(a, b) and TNR ~ Beta(c, d), joined by a Gaussian copula."""

    def draw(rng: np.random.Generator, n: int) -> Rates:
        normal = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], n)
        first, second = special.ndtr(normal).T
        return stats.beta.ppf(first, a, b), stats.beta.ppf(second, c, d)

    return draw


def points(*kinds: tuple[float, float, float]) -> Population:
    """Latents of a few kinds (share, TPR, TNR)."""
    shares, tpr, tnr = (np.array(part) for part in zip(*kinds, strict=True))

    def draw(rng: np.random.Generator, n: int) -> Rates:
        kind = rng.choice(len(shares), n, p=shares)
        return tpr[kind], tnr[kind]

    return draw


def mixture(share: float, one: Population, other: Population) -> Population:
    def draw(rng: np.random.Generator, n: int) -> Rates:
        first = rng.random(n) < share
        return tuple(np.where(first, x, y) for x, y in zip(one(rng, n), other(rng, n), strict=True))  # type: ignore[return-value]

    return draw


POPULATIONS: dict[str, Population] = {
    "independent": betas(8, 2, 30, 3),
    "correlated": betas(5, 1.5, 15, 1.5, 0.7),
    "opposed": betas(5, 1.5, 15, 1.5, -0.7),
    "nearly all good": betas(20, 1, 40, 1, 0.3),
    "good or useless": mixture(0.4, betas(30, 2, 60, 2), betas(2, 8, 20, 2)),
    "two points": points((0.5, 0.95, 0.99), (0.5, 0.6, 0.9)),
    "three points": points((0.3, 1, 1), (0.4, 0.9, 0.8), (0.3, 0.1, 0.95)),
    "all at 0.95": points((1, 0.95, 0.95)),
    "all at 0.92": points((1, 0.92, 0.92)),
}


def perfect_table(draws: int, n_latents: int = 1_000) -> list[dict[str, float]]:
    """Accuracy × number of judgements: the share of latents with all right, and what it must be."""
    rows = []
    for accuracy in (0.9, 0.95, 0.99, 0.999):
        for n in (40, 100, 200):
            rng = np.random.default_rng(n)
            right = rng.binomial(n, accuracy, size=(draws, n_latents))
            size, enough = np.full(n_latents, n), np.full(n_latents, True)
            seen = [perfect_share(r, size, enough, n_latents, n_latents, 0.95).of_scored for r in right]
            expected = float(expected_perfect_share(np.array([accuracy]), np.array([n])))
            covered = np.mean([share.low <= expected <= share.high for share in seen])
            share = float(np.mean([share.value for share in seen]))
            rows.append({"accuracy": accuracy, "n": n, "share": share, "expected": expected, "covered": float(covered)})
    return rows


def table(draws: int, n_latents: int = 1_000) -> list[dict[str, float | str]]:
    """Population × judgements per class. truth: the share of the drawn latents above 0.9; estimate, its standard
    deviation about the truth, and how often the interval holds it; perfect: the share with all right; one_beta and
    two_betas: rivals, one Beta for balanced accuracy and one for each rate, by maximum likelihood."""
    rows: list[dict[str, float | str]] = []
    for name, population in POPULATIONS.items():
        for n in (20, 50, 100):
            runs = [_estimated(population, n_latents, n, np.random.default_rng(draw)) for draw in range(draws)]
            means = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
            error = [run["estimate"] - run["truth"] for run in runs]
            rows.append({"population": name, "n": n} | means | {"deviation": float(np.std(error))})
    return rows


def _estimated(population: Population, n_latents: int, n: int, rng: np.random.Generator) -> dict[str, float]:
    tpr, tnr = population(rng, n_latents)
    hits, rejections, size = rng.binomial(n, tpr), rng.binomial(n, tnr), np.full(n_latents, n)
    truth = float(np.mean((tpr + tnr) / 2 > TRULY_GOOD))
    estimate = share_truly_above(hits, size, rejections, size, rng, 0.95)
    return {
        "truth": truth,
        "perfect": float(np.mean(hits + rejections == 2 * n)),
        "estimate": float(estimate.value),
        "covered": float(estimate.low <= truth <= estimate.high),
        "one_beta": float(stats.beta.sf(TRULY_GOOD, *fitted_beta(hits + rejections, 2 * n))),
        "two_betas": _mean_of_two_above(fitted_beta(hits, n), fitted_beta(rejections, n)),
    }


def fitted_beta(right: ndarray, n: int) -> tuple[float, float]:
    """The Beta of a beta-binomial by maximum likelihood, through mean and size."""

    def pair(parameters: ndarray) -> tuple[float, float]:
        mean, size = special.expit(parameters[0]), np.exp(parameters[1])
        return mean * size, (1 - mean) * size

    values, counts = np.unique(right, return_counts=True)

    def loss(parameters: ndarray) -> float:
        a, b = pair(parameters)
        return float(counts @ (special.betaln(a, b) - special.betaln(values + a, n - values + b))) / len(right)

    start = special.logit(np.clip(right.mean() / n, 0.01, 0.99)), 2.0
    return pair(optimize.minimize(loss, start, method="L-BFGS-B", bounds=[(-7, 7), (-2, 8)]).x)


def _mean_of_two_above(first: tuple[float, float], second: tuple[float, float]) -> float:
    x = stats.beta.ppf((np.arange(400) + 0.5) / 400, *first)
    return float(stats.beta.sf(2 * TRULY_GOOD - x, *second).mean())
