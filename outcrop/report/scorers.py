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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from outcrop.metrics.auroc import area
from outcrop.metrics.coverage import macro_mean
from outcrop.metrics.rates import Sampling
from outcrop.metrics.simulation import correlation
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
    negative_shares: dict[str, float]  # what each non-activating kind weighs
    n_quantiles: int

    def cells(self, values: ndarray) -> tuple[list[ndarray], list[ndarray]]:
        """Values by quantile, and by non-activating kind."""
        known = ~np.isnan(values)
        fires = (self.quantile > 0) & (self.stratum != MISPLACED)
        positive = [values[known & fires & (self.quantile == q + 1)] for q in range(self.n_quantiles)]
        negative = [values[known & ~fires & (self.stratum == name)] for name in self.negative_shares]
        return positive, negative


def _informedness(one: _Judged) -> float:
    positive, negative = one.cells(one.predicted)
    if not all(map(len, positive)):
        return float("nan")
    tpr = float(np.mean([cell.mean() for cell in positive]))
    weighed = [(cell, v) for cell, v in zip(negative, one.negative_shares.values(), strict=True) if v > 0]
    if not weighed or not all(len(cell) for cell, _ in weighed):
        return float("nan")
    return tpr - float(sum(v * cell.mean() for cell, v in weighed)) / sum(v for _, v in weighed)


def _area(one: _Judged, values: ndarray) -> float:
    positive, negative = one.cells(values)
    return area(positive, negative, np.ones(len(positive)), list(one.negative_shares.values()))


def _above_chance(one: _Judged) -> float:
    judged = ~np.isnan(one.predicted)
    if not judged.any():
        return float("nan")
    chance = 1 / np.array([m for (m,) in filter(None, one.measured)])
    return float(((one.predicted[judged] - chance) / (1 - chance)).mean())


def _metrics(scorer: str, one: _Judged) -> dict[str, float]:
    match scorer:
        case "intruder":
            return {"above_chance": _above_chance(one)}
        case "embedding" | "surprisal":
            return {"auroc": _area(one, np.array([value[0] if value else np.nan for value in one.measured]))}
        case "simulation":
            return {"correlation": correlation(np.array([*filter(None, one.measured)]).reshape(-1, 6))}
        case _:
            return {"informedness": _informedness(one), "auroc": _area(one, one.probability)}


def scorer_table(results: Results, n_quantiles: int, sampling: Sampling) -> list[dict[str, Any]]:
    """[scorer, explainer, source, arm, metric, value, low, high, n]; n latents have a value."""
    table = []
    for (scorer, explainer, source, arm), latents in _grouped(results, n_quantiles):
        scores = [_metrics(scorer, one) for one in latents]
        for metric in scores[0]:
            values = np.array([score[metric] for score in scores])
            mean = macro_mean(values[:, None], sampling)
            names = {"scorer": scorer, "explainer": explainer, "source": source, "arm": arm, "metric": metric}
            ends = {end: getattr(mean, end)[0] for end in ("value", "low", "high")}
            table.append({**names, **ends, "n": int((~np.isnan(values)).sum())})
    return table


def scorer_rows(table: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    """(scorer, explained by, metric) → arm → its line. The control without explanation stands by itself."""
    rows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for line in table:
        told = " ".join(filter(None, (line["explainer"], line["source"] if line["source"] != "all" else "")))
        rows.setdefault((line["scorer"], told, line["metric"]), {})[line["arm"]] = line
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


def _weights(scorer: str, shares: dict[str, float]) -> dict[str, float]:
    """What each non-activating kind weighs."""
    if scorer != FUZZING:
        return shares
    return {stratum: share / 2 for stratum, share in shares.items()} | {MISPLACED: 0.5}


def _judged(columns: dict[str, ndarray], rows: list[int], shares: dict[str, float], n_quantiles: int) -> _Judged:
    probability, predicted = (columns[name][rows].astype(float) for name in ("probability", "predicted"))
    measured = [json.loads(text) if text else [] for text in columns["measured"][rows]]
    return _Judged(
        columns["quantile"][rows], columns["stratum"][rows], probability, predicted, measured, shares, n_quantiles
    )
