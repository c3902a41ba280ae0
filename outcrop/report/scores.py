"""The scores of every explanation, per arm, each with its interval and its number of judgements.

tpr, fpr                       weighted over quantiles (1/Q) and strata (v_s)
tpr_q1 … tpr_qQ                one quantile alone
fpr_S, balanced_accuracy_S     against the stratum S alone
balanced_accuracy, informedness, auroc, token_illusion
true_accuracy, accuracy_skill, precision, f1, predicted_rate, breadth    at the natural rate π
chance_corrected, beyond_tokens    of the explanation only, against the control and the baseline
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outcrop.metrics.accuracy import BALANCED_ACCURACY, CHANCE_CORRECTED, INFORMEDNESS
from outcrop.metrics.auroc import auroc
from outcrop.metrics.forms import estimate
from outcrop.metrics.prevalence import at_prevalence
from outcrop.metrics.rates import Estimate, Rate, Sampling, weighted_rate
from outcrop.metrics.tokens import BEYOND_TOKENS, TOKEN_ILLUSION
from outcrop.report.judged import ARMS, STRATA, Arm, Judged


@dataclass(frozen=True)
class Column:
    """One metric of one arm: estimates [N] and the judgements behind each [N]."""

    estimate: Estimate
    n: Float[ndarray, "N"]


@dataclass(frozen=True)
class _ArmRates:
    tpr: Rate
    fpr: Rate
    quantiles: list[Rate]
    strata: list[Rate]


def score(judged: Judged, sampling: Sampling) -> dict[str, dict[str, Column]]:
    """arm → metric → column."""
    rates = {arm: _rates(judged, judged.arms[arm], sampling.confidence) for arm in ARMS}
    columns = {arm: _arm_columns(judged, judged.arms[arm], rates[arm], sampling) for arm in ARMS}
    columns["explanation"] |= _compared(judged, rates)
    return columns


def _rates(judged: Judged, arm: Arm, confidence: float) -> _ArmRates:
    """An arm that was never asked has neither value nor bounds: its weights are NaN."""
    asked = np.where(arm.n.sum(-1) > 0, 1.0, np.nan)[:, None]
    q = judged.n_quantiles
    even, shares = asked * np.full(q, 1 / max(q, 1)), asked * judged.shares

    def alone(cell: int, weight: ndarray) -> Rate:
        one = slice(cell, cell + 1)
        return weighted_rate(arm.hits[:, one], arm.n[:, one], weight, confidence)

    return _ArmRates(
        tpr=weighted_rate(arm.hits[:, :q], arm.n[:, :q], even, confidence),
        fpr=weighted_rate(arm.hits[:, q:], arm.n[:, q:], shares, confidence),
        quantiles=[alone(i, asked) for i in range(q)],
        strata=[alone(q + i, asked * (judged.shares[:, [i]] > 0)) for i in range(len(STRATA))],
    )


def _arm_columns(judged: Judged, arm: Arm, rates: _ArmRates, sampling: Sampling) -> dict[str, Column]:
    q = judged.n_quantiles
    n_positive, n_negative = arm.n[:, :q].sum(-1), arm.n[:, q:].sum(-1)
    n = n_positive + n_negative
    both = (rates.tpr, rates.fpr)
    columns = {
        "tpr": Column(rates.tpr, n_positive),
        "fpr": Column(rates.fpr, n_negative),
        "balanced_accuracy": Column(estimate(BALANCED_ACCURACY, both), n),
        "informedness": Column(estimate(INFORMEDNESS, both), n),
        "auroc": Column(_auroc(judged, arm, sampling), n),
    }
    for i, rate in enumerate(rates.quantiles):
        columns[f"tpr_q{i + 1}"] = Column(rate, arm.n[:, i])
    for i, (stratum, rate) in enumerate(zip(STRATA, rates.strata, strict=True)):
        alone = estimate(BALANCED_ACCURACY, (rates.tpr, rate))
        columns[f"fpr_{stratum}"] = Column(rate, arm.n[:, q + i])
        columns[f"balanced_accuracy_{stratum}"] = Column(alone, n_positive + arm.n[:, q + i])
    prevalence = judged.columns["context_rate"].astype(float)
    for name, found in at_prevalence(*both, prevalence).items():
        columns[name] = Column(found, n)
    same_token, random = (rates.strata[STRATA.index(name)] for name in ("same_token", "random"))
    columns["token_illusion"] = Column(estimate(TOKEN_ILLUSION, (same_token, random)), n_negative)
    return columns


def _auroc(judged: Judged, arm: Arm, sampling: Sampling) -> Estimate:
    q = judged.n_quantiles
    rows = [
        auroc(cells[:q], cells[q:], np.ones(q), judged.shares[i], sampling) for i, cells in enumerate(arm.probabilities)
    ]
    return Estimate(*(np.array([getattr(row, end) for row in rows], float) for end in ("value", "low", "high")))


def _compared(judged: Judged, rates: dict[str, _ArmRates]) -> dict[str, Column]:
    """The explanation against the control and against the token baseline."""
    explanation, control, baseline = (rates[arm] for arm in ARMS)
    n = judged.arms["explanation"].n.sum(-1)
    against_control = (explanation.tpr, explanation.fpr, control.tpr, control.fpr)
    against_tokens = (explanation.tpr, explanation.fpr, baseline.tpr, baseline.fpr)
    return {
        "chance_corrected": Column(estimate(CHANCE_CORRECTED, against_control), n),
        "beyond_tokens": Column(estimate(BEYOND_TOKENS, against_tokens), n),
    }
