"""The scores of every explanation, per arm, each with its interval and its number of judgements.

tpr, fpr                       weighted over quantiles (1/Q) and strata (v_s)
tpr_q1 … tpr_qQ                one quantile alone
fpr_S, balanced_accuracy_S     against the stratum S alone
balanced_accuracy, informedness, auroc, token_illusion
true_accuracy, accuracy_skill, precision, f1, predicted_rate, breadth, average_precision    at the natural rate π
chance_corrected, beyond_tokens    of the explanation only, against the control and the baseline
beyond_tokens_same_token       the same, with J against the stratum same_token alone

Of the explanation only, too: brier and log_loss, as the judge says it and `_calibrated`; tpr, fpr, true_accuracy and
accuracy_skill `_calibrated`, of the decision p′ > ½; and whether `PERFECT_WINDOWS` windows of either kind, drawn from
those that were judged, were all judged right.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.metrics.accuracy import BALANCED_ACCURACY, CHANCE_CORRECTED, INFORMEDNESS
from outcrop.metrics.forms import estimate
from outcrop.metrics.prevalence import at_prevalence
from outcrop.metrics.ranking import Ranking
from outcrop.metrics.rates import Estimate, Rate, weighted_rate
from outcrop.metrics.tokens import BEYOND_TOKENS, TOKEN_ILLUSION
from outcrop.report.calibrated import Calibrated
from outcrop.report.clusters import design_of
from outcrop.report.judged import ARMS, STRATA, Judged, Verdicts, ranked_within

_FAR = float("inf")
_RANGES = {  # of the metrics that are no shares
    **dict.fromkeys(("informedness", "token_illusion"), (-1.0, 1.0)),
    **dict.fromkeys(("above_chance", "correlation"), (-1.0, 1.0)),
    **dict.fromkeys(("beyond_tokens", "beyond_tokens_same_token"), (-2.0, 2.0)),
    **dict.fromkeys(("accuracy_skill", "accuracy_skill_calibrated"), (-_FAR, 1.0)),
    **dict.fromkeys(("log_loss", "log_loss_calibrated"), (0.0, _FAR)),
    "chance_corrected": (-_FAR, 1.0),
    "breadth": (0.0, _FAR),
}
PERFECT_WINDOWS = 20  # of either kind; the share of perfect latents falls with their number


def within(metric: str, mean: Estimate) -> dict[str, float]:
    """One mean, whose interval does not leave the metric's range."""
    least, most = _RANGES.get(metric, (0.0, 1.0))
    ends = mean.numbers
    return ends | {"low": max(ends["low"], least), "high": min(ends["high"], most)}


@dataclass(frozen=True)
class Column:
    """One metric of one arm: estimates [N] and the judgements behind each [N]."""

    estimate: Estimate
    n: Float[ndarray, "N"]

    def columns(self, name: str) -> dict[str, ndarray]:
        """As columns of a table."""
        return self.estimate.columns(name) | {f"{name}.n": self.n.astype(np.int64)}

    def of(self, rows: ndarray) -> Column:
        return Column(self.estimate[rows], self.n[rows])


@dataclass(frozen=True)
class Scores:
    """Of N explanations with a text: what they are about (columns of `judged`), and arm → metric → column."""

    about: dict[str, ndarray]
    arms: dict[str, dict[str, Column]]
    n_quantiles: int
    within_documents: dict[str, dict[str, float]]  # arm → kind of window → correlation of the judgements of a document

    def of(self, rows: ndarray) -> Scores:
        """Some of them, by a mask or by their rows."""
        about = {name: column[rows] for name, column in self.about.items()}
        arms = {arm: {name: column.of(rows) for name, column in of.items()} for arm, of in self.arms.items()}
        return replace(self, about=about, arms=arms)

    @property
    def scored(self) -> Bool[ndarray, "N"]:
        """Explanations that were judged on activating and on other windows."""
        of = self.arms["explanation"]
        return np.asarray((of["tpr"].n > 0) & (of["fpr"].n > 0))

    def by(self, explainer: str, source: str) -> Bool[ndarray, "N"]:
        return np.asarray((self.about["explainer"] == explainer) & (self.about["source"] == source))


@dataclass(frozen=True)
class _ArmRates:
    tpr: Rate
    fpr: Rate
    quantiles: list[Rate]
    strata: list[Rate]
    correlation: dict[str, float]


@dataclass(frozen=True)
class Ranks:
    """What the order of probabilities says of every subject of a scorer in an arm."""

    auroc: Estimate
    average_precision: Estimate


def score(judged: Judged, ranks: Mapping[tuple[str, str], Ranks], posteriors: Calibrated, confidence: float) -> Scores:
    """Every metric of every arm; those of arms without an explanation are their latent's. `ranks` are by scorer and
    arm, `posteriors` those of detection in the arm "plain"."""

    def of_arm(asked: tuple[str, str]) -> tuple[_ArmRates, dict[str, Column]]:
        verdicts = judged.verdicts(*asked)
        of = np.arange(verdicts.n_subjects) if verdicts.of_texts else judged.latent_of
        n = verdicts.counts[1][of]
        found = _rates(judged, verdicts, of, confidence)
        by_rank = {metric: Column(one[of], n.sum(-1)) for metric, one in vars(ranks[asked]).items()}
        return found, _counted(judged, n, found) | by_rank

    rates, arms = {}, {}
    with ThreadPoolExecutor(2) as threads:  # all is read by now: SQLite's connection is this thread's own
        for arm, found in zip(ARMS, threads.map(of_arm, ARMS.values()), strict=True):
            rates[arm], arms[arm] = found
    ours = arms["explanation"]
    ours |= _compared(rates, ours["informedness"].n, ours["balanced_accuracy_same_token"].n)
    arms["explanation"] |= _calibrated(judged, posteriors, confidence)
    sizes = {f"{name}_size": getattr(rates["explanation"], name).size for name in ("tpr", "fpr")}
    about = judged.texts | sizes | _perfect(judged, posteriors.verdicts)
    return Scores(about, arms, judged.n_quantiles, {arm: of.correlation for arm, of in rates.items()})


def _rates(judged: Judged, verdicts: Verdicts, of: Int[ndarray, "N"], confidence: float) -> _ArmRates:
    """Of the subjects `of`. An arm that was never asked has neither value nor bounds: its weights are NaN."""
    hits, n = (counts[of] for counts in verdicts.counts)
    asked = np.where(n.sum(-1) > 0, 1.0, np.nan)[:, None]
    q, strata = judged.n_quantiles, slice(judged.n_quantiles, judged.n_quantiles + len(STRATA))
    even, shares = asked * np.full(q, 1 / max(q, 1)), asked * judged.shares[judged.latent_of]
    up, down = (design_of(judged, verdicts, activating=activating) for activating in (True, False))

    def alone(cell: int, weight: ndarray) -> Rate:
        one, design = slice(cell, cell + 1), (up if cell < q else down).alone[of, cell]
        return weighted_rate(hits[:, one], n[:, one], weight, confidence, design)

    return _ArmRates(
        tpr=weighted_rate(hits[:, :q], n[:, :q], even, confidence, up.whole[of]),
        fpr=weighted_rate(hits[:, strata], n[:, strata], shares, confidence, down.whole[of]),
        quantiles=[alone(i, asked) for i in range(q)],
        strata=[alone(q + i, np.where(shares[:, [i]] > 0, asked, 0 * asked)) for i in range(len(STRATA))],
        correlation={"activating": up.correlation, "others": down.correlation},
    )


def _counted(judged: Judged, n: Float[ndarray, "N C"], rates: _ArmRates) -> dict[str, Column]:
    q = judged.n_quantiles
    n_positive, n_negative = n[:, :q].sum(-1), n[:, q:].sum(-1)
    n_all = n_positive + n_negative
    both = (rates.tpr, rates.fpr)
    columns = {
        "tpr": Column(rates.tpr, n_positive),
        "fpr": Column(rates.fpr, n_negative),
        "balanced_accuracy": Column(estimate(BALANCED_ACCURACY, both), n_all),
        "informedness": Column(estimate(INFORMEDNESS, both), n_all),
    }
    for i, rate in enumerate(rates.quantiles):
        columns[f"tpr_q{i + 1}"] = Column(rate, n[:, i])
    for i, (stratum, rate) in enumerate(zip(STRATA, rates.strata, strict=True)):
        alone = estimate(BALANCED_ACCURACY, (rates.tpr, rate))
        columns[f"fpr_{stratum}"] = Column(rate, n[:, q + i])
        columns[f"balanced_accuracy_{stratum}"] = Column(alone, n_positive + n[:, q + i])
    for name, found in at_prevalence(*both, judged.texts["context_rate"].astype(float)).items():
        columns[name] = Column(found, n_all)
    same_token, random = (rates.strata[STRATA.index(name)] for name in ("same_token", "random"))
    columns["token_illusion"] = Column(estimate(TOKEN_ILLUSION, (same_token, random)), n_negative)
    return columns


def ranks_of(judged: Judged, verdicts: Verdicts, confidence: float) -> Ranks:
    """AUROC, and average precision at the natural rate of latents with an explanation."""
    ranking = ranked(judged, verdicts, verdicts.probability, confidence)
    rate = np.full(verdicts.n_subjects, np.nan)
    rate[slice(None) if verdicts.of_texts else judged.latent_of] = judged.texts["context_rate"].astype(float)
    return Ranks(ranking.auroc(), ranking.average_precision(rate))


def ranked(judged: Judged, verdicts: Verdicts, values: Float[ndarray, "n"], confidence: float) -> Ranking:
    """The windows of every subject, ordered by these values."""
    weights = judged.weights(verdicts)
    return Ranking.of(values, verdicts.subject, verdicts.cell, weights, judged.n_quantiles, confidence)


def _calibrated(judged: Judged, posteriors: Calibrated, confidence: float) -> dict[str, Column]:
    decisions = posteriors.decisions
    rates = _rates(judged, decisions, np.arange(decisions.n_subjects), confidence)
    n_all = decisions.counts[1].sum(-1)
    at_rate = at_prevalence(rates.tpr, rates.fpr, judged.texts["context_rate"].astype(float))
    found = {
        "tpr": rates.tpr,
        "fpr": rates.fpr,
        **{name: at_rate[name] for name in ("true_accuracy", "accuracy_skill")},
    }
    decided = {f"{name}_calibrated": Column(of, n_all) for name, of in found.items()}
    missing = np.full(len(n_all), np.nan)
    lost = posteriors.losses.items()
    return decided | {name: Column(Estimate(values, missing, missing), n_all) for name, values in lost}


def _perfect(judged: Judged, verdicts: Verdicts) -> dict[str, ndarray]:
    """enough: whether so many windows of either kind were judged, or failed to be; perfect: all drawn ones right."""
    activating = verdicts.cell < judged.n_quantiles
    group = verdicts.subject * 2 + ~activating
    rank, n = ranked_within(group, np.random.default_rng(0).permutation(len(group)), 2 * verdicts.n_subjects)
    drawn = np.flatnonzero(rank < PERFECT_WINDOWS)
    wrong = verdicts.predicted[drawn] != activating[drawn]  # so is a judgement that failed
    n_wrong = np.bincount(verdicts.subject[drawn], weights=wrong, minlength=verdicts.n_subjects)
    enough = (n.reshape(-1, 2) >= PERFECT_WINDOWS).all(axis=1)
    return {"enough": enough, "perfect": enough & (n_wrong == 0)}


def _compared(
    rates: dict[str, _ArmRates], n: Float[ndarray, "N"], n_same_token: Float[ndarray, "N"]
) -> dict[str, Column]:
    """The explanation against the control and against the token baseline."""
    pairs = {arm: (rates[arm].tpr, rates[arm].fpr) for arm in ARMS}
    hard = {arm: (rates[arm].tpr, rates[arm].strata[STRATA.index("same_token")]) for arm in ARMS}
    against_control = estimate(CHANCE_CORRECTED, (*pairs["explanation"], *pairs["no_explanation"]))
    against_tokens = estimate(BEYOND_TOKENS, (*pairs["explanation"], *pairs["token_baseline"]))
    on_triggers = estimate(BEYOND_TOKENS, (*hard["explanation"], *hard["token_baseline"]))
    return {
        "chance_corrected": Column(against_control, n),
        "beyond_tokens": Column(against_tokens, n),
        "beyond_tokens_same_token": Column(on_triggers, n_same_token),
    }
