"""The judge's probabilities as they are and calibrated: what they are worth at the natural rate.

p′ of the arm "plain" is the posterior at each latent's context rate. A judge that was told the base rate answers with a
posterior already: its arm is fitted at natural weights, and moved by the mean context rate alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.metrics.calibration import (
    Calibration,
    brier,
    calibrate,
    log_loss,
    natural_weights,
    posterior,
    reliability,
    squared_error,
    surprise,
)
from outcrop.report.judged import Judged, Verdicts
from outcrop.schema import DETECTION

ARMS = ("plain", "base_rate")


@dataclass(frozen=True)
class Calibrated:
    """One arm's verdicts, those with a probability in a stratum that counts, and what became of them."""

    verdicts: Verdicts
    rows: Int[ndarray, "k"]  # of the verdicts
    weight: Float[ndarray, "k"]  # at the natural rate; Σ = 1 in a subject, 0 where a cell with weight was not judged
    before: Float[ndarray, "k"]
    after: Float[ndarray, "k"]  # NaN where there was nothing to fit with
    calibration: Calibration
    activating: Bool[ndarray, "k"]

    @property
    def posterior(self) -> Float[ndarray, "n"]:
        """p′ of every verdict; NaN where there is none."""
        whole = np.full(len(self.verdicts.subject), np.nan)
        whole[self.rows] = self.after
        return whole

    @property
    def decisions(self) -> Verdicts:
        """Of p′ > ½."""
        known = ~np.isnan(self.after)
        rows, said = self.rows[known], (self.after[known] > 0.5).astype(np.float64)
        columns = {name: getattr(self.verdicts, name)[rows] for name in ("subject", "window", "cell", "measured")}
        return replace(self.verdicts, **columns, predicted=said, probability=self.after[known])

    @property
    def losses(self) -> dict[str, Float[ndarray, "N"]]:
        """Brier score and log loss of every subject, before and after."""
        subject, n = self.verdicts.subject[self.rows], self.verdicts.n_subjects
        total = np.bincount(subject, weights=self.weight, minlength=n)
        found = {}
        for name, p in (("", self.before), ("_calibrated", self.after)):
            for loss, of in (("brier", squared_error), ("log_loss", surprise)):
                sums = np.bincount(subject, weights=self.weight * of(p, self.activating), minlength=n)
                found[loss + name] = np.asarray(sums / np.where(total > 0, total, np.nan))
        return found


def calibrated(judged: Judged, arm: str) -> Calibrated:
    """Detection in one arm, over all explainers; latents are dealt to the folds by a fixed seed."""
    verdicts = judged.verdicts(DETECTION, arm)
    weights = judged.weights(verdicts)
    known = ~np.isnan(verdicts.probability)
    size = np.bincount((verdicts.subject * verdicts.n_cells + verdicts.cell)[known], minlength=weights.size)
    per_window = weights / np.maximum(size.reshape(weights.shape), 1)
    rows = np.flatnonzero(known & (weights[verdicts.subject, verdicts.cell] > 0))
    subject, cell, before = verdicts.subject[rows], verdicts.cell[rows], verdicts.probability[rows]
    weight, activating = per_window[subject, cell], cell < judged.n_quantiles
    rate = judged.texts["context_rate"].astype(float)[subject]
    complete = ~((weights > 0) & (size.reshape(weights.shape) == 0)).any(axis=1)
    natural = natural_weights(weight, activating, subject, rate) * complete[subject]
    told = arm == "base_rate"
    fitted = calibrate(
        before, activating, natural if told else weight, judged.latent_of[subject], np.random.default_rng(0)
    )
    after = posterior(fitted.log_likelihood_ratio, float(np.mean(rate)) if told and len(rate) else rate)
    return Calibrated(verdicts, rows, natural, before, after, fitted, activating)


def calibration_summary(of: Calibrated, arm: str) -> dict[str, Any]:
    """arm, n judgements, Platt's slopes, how many of the fits are isotonic; before and after: brier, log_loss, ece,
    reliability [predicted, observed, weight, n]."""
    fitted = of.calibration
    return {
        "scorer": DETECTION,
        "arm": arm,
        "n": len(of.rows),
        "slopes": fitted.slope.tolist(),
        "n_isotonic": int(fitted.isotonic.sum()),
        "before": _quality(of, of.before),
        "after": _quality(of, of.after),
    }


def _quality(of: Calibrated, p: Float[ndarray, "k"]) -> dict[str, Any]:
    known = ~np.isnan(p)
    p, fires, weight = p[known], of.activating[known], of.weight[known]
    bins = reliability(p, fires, weight)
    columns = {name: getattr(bins, name).tolist() for name in ("predicted", "observed", "weight", "n")}
    return {
        "brier": brier(p, fires, weight),
        "log_loss": log_loss(p, fires, weight),
        "ece": bins.error,
        "reliability": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }
