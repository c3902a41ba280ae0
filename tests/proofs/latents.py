"""Do firing-rate weights undo the selection of latents, and is context dependence right where types are rare?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy import ndarray
from scipy.sparse import csr_array

from outcrop.latents.sampling import share_out
from outcrop.latents.statistics import context_dependence
from outcrop.metrics.coverage import coverage, hajek_weights, unscored_at, weighted_mean

N_LATENTS, N_BINS = 20_000, 8
FAILED = 0.3  # of the selected latents that score below the median: what is hard to score scores badly


def population(generator: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Firing rates, most of them small, and scores that fall with the rate."""
    rate = 10 ** generator.normal(-3.5, 0.6, N_LATENTS).clip(-5, -1)
    score = 0.9 - 0.1 * (np.log10(rate) + 5) + generator.normal(0, 0.08, N_LATENTS)
    return rate, score.clip(0, 1)


def selected(rate: ndarray, n: int, generator: np.random.Generator) -> tuple[ndarray, ndarray]:
    """As many from each bin of log firing rate, and the chance that each had."""
    logs = np.log(rate)
    bins = np.digitize(logs, np.linspace(logs.min(), logs.max(), N_BINS + 1)[1:-1])
    members = [np.flatnonzero(bins == i) for i in range(N_BINS)]
    quotas = share_out(n, [len(of) for of in members])
    drawn = [generator.choice(of, size=quota, replace=False) for of, quota in zip(members, quotas, strict=True)]
    chance = [np.full(quota, quota / max(1, len(of))) for of, quota in zip(members, quotas, strict=True)]
    return np.concatenate(drawn), np.concatenate(chance)


def weight_rows(draws: int) -> Iterator[dict[str, Any]]:
    """The firing-weighted mean over all latents, from some of them."""
    for n in (24, 100, 400):
        generator = np.random.default_rng(n)
        errors, unweighted, covered, effective, left_out, held = [], [], [], [], [], []
        for _ in range(draws):
            rate, score = population(generator)
            chosen, chance = selected(rate, n, generator)
            truth = float(rate @ score / rate.sum())
            weights = hajek_weights(rate[chosen], chance)
            found = weighted_mean(score[chosen, None], weights, np.zeros(n, dtype=np.int64), 0.95)
            errors.append(float(found.value[0]) - truth)
            unweighted.append(float(score[chosen].mean()) - truth)
            covered.append(bool(found.low[0] <= truth <= found.high[0]))
            effective.append(float(weights.sum() ** 2 / (weights**2).sum()))
            low, middle, high = _with_failures(score[chosen], weights, generator)
            left_out.append(middle - truth)
            held.append(low <= truth <= high)
        yield {
            "latents": n,
            "effective": float(np.mean(effective)),
            "bias": float(np.mean(errors)),
            "deviation": float(np.std(errors)),
            "bias unweighted": float(np.mean(unweighted)),
            "covered": float(np.mean(covered)),
            "bias, failed left out": float(np.mean(left_out)),
            "bounds hold it": float(np.mean(held)),
        }


def _with_failures(score: ndarray, weights: ndarray, generator: np.random.Generator) -> tuple[float, float, float]:
    """The weighted mean with failed latents at 0, left out, and at the best."""
    fails = (score < np.median(score)) & (generator.random(len(score)) < FAILED)
    seen = np.where(fails, np.nan, score)
    low, high = (float(weights @ unscored_at(seen, end) / weights.sum()) for end in (0.0, 1.0))
    return low, float(weights[~fails] @ score[~fails] / weights[~fails].sum()), high


def coverage_rows(draws: int) -> Iterator[dict[str, Any]]:
    """Of all firing, the share on scored latents: latents drawn at random, and spread over firing rates."""
    generator = np.random.default_rng(0)
    rate, _ = population(generator)
    for n in (100, 400):
        spread = [coverage(rate, np.isin(np.arange(N_LATENTS), selected(rate, n, generator)[0])) for _ in range(draws)]
        alike = [coverage(rate, np.isin(np.arange(N_LATENTS), generator.choice(N_LATENTS, n))) for _ in range(draws)]
        yield {"latents": n, "firing covered, spread": float(np.mean(spread)), "at random": float(np.mean(alike))}


def dependence_rows(draws: int) -> Iterator[dict[str, Any]]:
    """A latent fires on each occurrence of its types with one chance p: context dependence is 1 − p, however rare the
    types. Beside it the plain estimate, 1 − Σ f²/n / Σ f."""
    for occurrences, chance in ((2, 1.0), (2, 0.5), (3, 0.2), (20, 0.5), (200, 0.5)):
        generator = np.random.default_rng(occurrences)
        n = np.full(2_000, occurrences)
        found, plain = [], []
        for _ in range(draws):
            fired = generator.binomial(n, chance)
            found.append(float(context_dependence(csr_array(fired[None]), n)[0][0]))
            plain.append(1 - float((fired**2 / n).sum() / fired.sum()))
        yield {
            "occurrences of a type": occurrences,
            "planted": 1 - chance,
            "found": float(np.mean(found)),
            "deviation": float(np.std(found)),
            "plain estimate": float(np.mean(plain)),
        }


def table(draws: int) -> list[dict[str, Any]]:
    return [*weight_rows(draws), *coverage_rows(max(1, draws // 20)), *dependence_rows(max(1, draws // 10))]
