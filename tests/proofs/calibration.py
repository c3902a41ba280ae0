"""Judges whose log-likelihood ratio is known, before and after calibration.

A window's true ratio ℓ is drawn from N(±d²/2, d²), + where the latent fires, whose log-likelihood ratio is ℓ itself.
The judge answers with a distortion of σ(ℓ). Context rates are spread evenly in log π over 10⁻³ … 10⁻¹.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy.special import expit, logit

from outcrop.metrics.calibration import brier, calibrate, log_loss, natural_weights, posterior, reliability

N_ACTIVATING, N_OTHER = 20, 50
SEPARATION = 3.0  # d; AUROC 0.98

Distortion = Callable[[ndarray, ndarray, np.random.Generator], ndarray]  # of ℓ and logit π

JUDGES: dict[str, Distortion] = {
    "calibrated at ½": lambda ratio, prior, rng: expit(ratio),
    "over-confident": lambda ratio, prior, rng: expit(3 * ratio),
    "under-confident": lambda ratio, prior, rng: expit(0.3 * ratio),
    "biased towards yes": lambda ratio, prior, rng: expit(ratio + 3),
    "rounded to tenths": lambda ratio, prior, rng: np.round(expit(ratio), 1),
    "yes or no": lambda ratio, prior, rng: np.where(ratio > 0, 1.0, 0.0),
    "lapses in 5%": lambda ratio, prior, rng: np.where(
        rng.random(ratio.shape) < 0.05, rng.random(ratio.shape), expit(ratio)
    ),
    "guesses": lambda ratio, prior, rng: rng.random(ratio.shape),
    "told the rate, over-confident": lambda ratio, prior, rng: expit(2 * (ratio + prior)),
}


@dataclass(frozen=True)
class Judgements:
    """Flat over latents × windows; truth is the posterior of a judge who knows ℓ and π."""

    probability: ndarray
    activating: ndarray
    weight: ndarray
    latent: ndarray
    prevalence: ndarray
    truth: ndarray

    @property
    def natural(self) -> ndarray:
        return natural_weights(self.weight, self.activating, self.latent, self.prevalence)


def judged(distort: Distortion, n_latents: int, rng: np.random.Generator, separation: float = SEPARATION) -> Judgements:
    activating = np.tile(np.repeat([True, False], [N_ACTIVATING, N_OTHER]), n_latents)
    latent = np.repeat(np.arange(n_latents), N_ACTIVATING + N_OTHER)
    prevalence = 10 ** rng.uniform(-3, -1, n_latents)[latent]
    ratio = np.where(activating, 1, -1) * separation**2 / 2 + separation * rng.standard_normal(len(latent))
    weight = np.where(activating, 1 / N_ACTIVATING, 1 / N_OTHER)
    probability = distort(ratio, logit(prevalence), rng)
    return Judgements(probability, activating, weight, latent, prevalence, expit(ratio + logit(prevalence)))


def mended(judgements: Judgements, rng: np.random.Generator, told: bool = False) -> tuple[ndarray, float]:
    """p′, and the share of folds with isotonic regression."""
    j = judgements
    weight = j.natural if told else j.weight
    calibration = calibrate(j.probability, j.activating, weight, j.latent, rng)
    prevalence = j.prevalence.mean() if told else j.prevalence
    return posterior(calibration.log_likelihood_ratio, prevalence), float(calibration.isotonic.mean())


def table(draws: int, n_latents: int = 500) -> list[dict[str, float | str]]:
    """A row per judge, each number a mean over the draws.

    "prior" always answers π; "best" knows ℓ. "agrees" is the share of windows, at natural prevalence, on which p > ½
    decides as the best does.
    """
    rows: list[dict[str, float | str]] = []
    for name, distort in JUDGES.items():
        rngs = [np.random.default_rng(draw) for draw in range(draws)]
        runs = [_measured(judged(distort, n_latents, rng), rng, name.startswith("told")) for rng in rngs]
        rows.append({"judge": name} | {key: float(np.mean([run[key] for run in runs])) for key in runs[0]})
    return rows


def _measured(judgements: Judgements, rng: np.random.Generator, told: bool) -> dict[str, float]:
    j, natural = judgements, judgements.natural
    after, isotonic = mended(j, rng, told)
    answers = {"before": j.probability, "after": after, "prior": j.prevalence, "best": j.truth}
    values = {"isotonic": isotonic}
    for when, p in answers.items():
        values[f"brier_{when}"] = brier(p, j.activating, natural)
        values[f"log_loss_{when}"] = log_loss(p, j.activating, natural)
        values[f"ece_{when}"] = reliability(p, j.activating, natural).error
        values[f"agrees_{when}"] = float(natural @ ((p > 0.5) == (j.truth > 0.5)) / natural.sum())
    return values
