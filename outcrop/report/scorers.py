"""The scores by every scorer, explainer and arm, averaged over latents: one table.

    detection, fuzzing, token_baseline    informedness J, AUROC
    intruder                              accuracy above chance: (accuracy − 1/m) / (1 − 1/m)
    embedding, surprisal                  AUROC
    simulation                            Pearson correlation of predicted and true activations

Rates are weighted over quantiles (1/Q) and strata (v_s); in fuzzing activating windows with other tokens marked
weigh as much as all non-activating ones together. A latent of which a kind with weight was not judged has no score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from outcrop.metrics.accuracy import INFORMEDNESS
from outcrop.metrics.auroc import area
from outcrop.metrics.coverage import macro_mean
from outcrop.metrics.rates import Sampling, weighted_rate
from outcrop.metrics.simulation import correlation
from outcrop.report.judged import STRATA
from outcrop.report.text import explained_by
from outcrop.results import (
    DETECTION,
    EMBEDDING,
    FUZZING,
    INTRUDER,
    MISPLACED,
    SIMULATION,
    SURPRISAL,
    TOKEN_BASELINE,
    Results,
)

SCORER_ARMS = {
    "plain": "its own",
    "base_rate": "… and the base rate",
    "other": "another's",
    "none": "none",
}
SCORER_METRICS = {
    "informedness": "J",
    "auroc": "AUROC",
    "above_chance": "above chance",
    "correlation": "correlation",
}

_KINDS = (*STRATA, MISPLACED)  # of windows and marks that are no positives
_ORDER = (DETECTION, FUZZING, INTRUDER, EMBEDDING, SURPRISAL, SIMULATION, TOKEN_BASELINE)

_JUDGEMENTS = f"""
SELECT j.coder || '/' || j.latent AS latent,
       CASE j.scorer WHEN '{MISPLACED}' THEN '{FUZZING}' ELSE j.scorer END AS scorer,
       j.arm, j.explainer, j.source, COALESCE(e.quantile, 0) AS quantile,
       CASE j.scorer WHEN '{MISPLACED}' THEN '{MISPLACED}' ELSE COALESCE(e.stratum, '') END AS stratum,
       j.probability, j.predicted, COALESCE(j.measured, '') AS measured
FROM judgements j JOIN examples e USING (coder, latent, example) WHERE e.split = 'score'
"""
_SHARES = "SELECT coder || '/' || latent AS latent, stratum, share FROM strata"


@dataclass(frozen=True)
class _Judged:
    """The judgements of one latent by one scorer in one arm."""

    quantile: Int[ndarray, "n"]  # 0 where the latent does not fire
    stratum: ndarray
    probability: Float[ndarray, "n"]
    predicted: Float[ndarray, "n"]
    measured: list[list[float]]  # empty where the judgement failed
    weights: list[float]  # of the non-activating kinds
    n_quantiles: int

    def cells(self, values: ndarray) -> list[ndarray]:
        """The values that are there, by quantile and then by non-activating kind."""
        known, fires = ~np.isnan(values), (self.quantile > 0) & (self.stratum != MISPLACED)
        quantiles = (fires & (self.quantile == q + 1) for q in range(self.n_quantiles))
        kinds = (~fires & (self.stratum == kind) for kind in _KINDS)
        return [values[known & cell] for cell in (*quantiles, *kinds)]


def _informedness(latents: Sequence[_Judged], confidence: float) -> Float[ndarray, "latents"]:
    cells = [one.cells(one.predicted) for one in latents]
    hits, n = (np.array([[of(cell) for cell in row] for row in cells], float) for of in (np.sum, len))
    q = latents[0].n_quantiles
    tpr = weighted_rate(hits[:, :q], n[:, :q], np.full(q, 1 / q), confidence)
    fpr = weighted_rate(hits[:, q:], n[:, q:], np.array([one.weights for one in latents]), confidence)
    return INFORMEDNESS(tpr.value, fpr.value)


def _area(one: _Judged, values: ndarray) -> float:
    cells, q = one.cells(values), one.n_quantiles
    return area(cells[:q], cells[q:], np.ones(q), one.weights)


def _above_chance(one: _Judged) -> float:
    judged = ~np.isnan(one.predicted)
    if not judged.any():
        return float("nan")
    chance = 1 / np.array([m for (m,) in filter(None, one.measured)])
    return float(((one.predicted[judged] - chance) / (1 - chance)).mean())


def _metrics(scorer: str, latents: Sequence[_Judged], confidence: float) -> dict[str, Float[ndarray, "latents"]]:
    if scorer == INTRUDER:
        return {"above_chance": np.array([_above_chance(one) for one in latents])}
    if scorer == SIMULATION:
        moments = (np.array([*filter(None, one.measured)]).reshape(-1, 6) for one in latents)
        return {"correlation": np.array([correlation(of) for of in moments])}
    if scorer in (EMBEDDING, SURPRISAL):
        values = (np.array([value[0] if value else np.nan for value in one.measured]) for one in latents)
        return {"auroc": np.array([_area(one, of) for one, of in zip(latents, values, strict=True)])}
    areas = np.array([_area(one, one.probability) for one in latents])
    return {"informedness": _informedness(latents, confidence), "auroc": areas}


def scorer_table(results: Results, n_quantiles: int, sampling: Sampling) -> list[dict[str, Any]]:
    """[scorer, explainer, source, arm, metric, value, low, high, n]; n latents have a value."""
    table = []
    for (scorer, explainer, source, arm), latents in _grouped(results, n_quantiles):
        for metric, values in _metrics(scorer, latents, sampling.confidence).items():
            mean = macro_mean(values[:, None], sampling)
            names = {"scorer": scorer, "explainer": explainer, "source": source, "arm": arm, "metric": metric}
            ends = {end: getattr(mean, end)[0] for end in ("value", "low", "high")}
            table.append({**names, **ends, "n": int((~np.isnan(values)).sum())})
    return table


def scorer_rows(table: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    """(scorer, explained by, metric) → arm → its line. The control without explanation stands by itself."""
    rows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for line in table:
        key = line["scorer"], explained_by(line["explainer"], line["source"]), line["metric"]
        rows.setdefault(key, {})[line["arm"]] = line
    return rows


def _grouped(results: Results, n_quantiles: int) -> Iterator[tuple[tuple[str, str, str, str], list[_Judged]]]:
    """By scorer, explainer, source and arm, the judgements of every latent."""
    shares: dict[str, dict[str, float]] = {}
    found = results.columns(_SHARES)
    for latent, stratum, share in zip(found["latent"], found["stratum"], found["share"], strict=True):
        shares.setdefault(latent, {})[stratum] = float(share)
    columns = results.columns(_JUDGEMENTS)
    # An intruder's source is the quantile of the windows beside it: one score over all of them.
    intruder = columns["scorer"] == INTRUDER
    source = np.where(intruder, "", columns["source"])
    groups = zip(columns["scorer"], columns["explainer"], source, columns["arm"], strict=True)
    rows: dict[tuple[str, str, str, str], dict[str, list[int]]] = {}
    for i, (group, latent) in enumerate(zip(groups, columns["latent"], strict=True)):
        rows.setdefault(group, {}).setdefault(latent, []).append(i)
    for group in sorted(rows, key=lambda key: (_ORDER.index(key[0]), key[1:])):
        weights = {latent: _weights(group[0], shares.get(latent, {})) for latent in rows[group]}
        yield group, [_judged(columns, at, weights[latent], n_quantiles) for latent, at in rows[group].items()]


def _weights(scorer: str, shares: dict[str, float]) -> list[float]:
    """What each non-activating kind weighs."""
    strata = [shares.get(stratum, 0.0) for stratum in STRATA]
    return [*strata, 0.0] if scorer != FUZZING else [*(share / 2 for share in strata), 0.5]


def _judged(columns: dict[str, ndarray], rows: list[int], weights: list[float], n_quantiles: int) -> _Judged:
    probability, predicted = (columns[name][rows].astype(float) for name in ("probability", "predicted"))
    measured = [json.loads(text) if text else [] for text in columns["measured"][rows]]
    return _Judged(
        columns["quantile"][rows], columns["stratum"][rows], probability, predicted, measured, weights, n_quantiles
    )
