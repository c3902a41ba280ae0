"""What every scorer says of every latent, by explainer and arm, and the means over latents: one table.

    detection, fuzzing, token_baseline    informedness J, AUROC
    intruder                              accuracy above chance: (accuracy − 1/m) / (1 − 1/m)
    embedding, surprisal                  AUROC
    simulation                            Pearson correlation of predicted and true activations

Rates are weighted over quantiles (1/Q) and strata (v_s); in fuzzing activating windows with other tokens marked
weigh as much as all non-activating ones together. A latent of which a kind with weight was not judged has no score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outcrop.metrics.accuracy import INFORMEDNESS
from outcrop.metrics.coverage import macro_mean
from outcrop.metrics.rates import Estimate, rate_values
from outcrop.metrics.simulation import correlation
from outcrop.report.judged import Judged, Verdicts
from outcrop.report.scores import Ranks, ranked, within
from outcrop.report.text import explained_by
from outcrop.results import records
from outcrop.schema import DETECTION, EMBEDDING, FUZZING, INTRUDER, SIMULATION, SURPRISAL, TOKEN_BASELINE

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

# Of the scorers beside detection, the metric by which latents are compared.
COMPARED = {
    FUZZING: ("auroc", "fuzzing AUROC"),
    INTRUDER: ("above_chance", "intruder"),
    EMBEDDING: ("auroc", "embedding AUROC"),
    SURPRISAL: ("auroc", "surprisal AUROC"),
    SIMULATION: ("correlation", "simulation"),
}
SCORERS = (DETECTION, FUZZING, INTRUDER, EMBEDDING, SURPRISAL, SIMULATION, TOKEN_BASELINE)
_NAMES = ("scorer", "explainer", "source", "arm", "metric")
_EXPLANATION = ("coder", "latent", "explainer", "source")
_COLUMNS = ("scorer", "arm", "metric", "coder", "latent", "explainer", "source", "value", "low", "high", "n")


def scorer_values(
    judged: Judged, asked: Iterable[tuple[str, str]], ranks: Mapping[tuple[str, str], Ranks], confidence: float
) -> dict[str, ndarray]:
    """One row per scorer, arm, metric and subject that was asked about: scorer, arm, metric, coder, latent, explainer,
    source, value, low, high, n. The ends are NaN where the metric has no interval of one subject, n counts judgements.
    `asked` are the scorers and arms there are judgements of, `ranks` of those that say yes or no."""
    tables = []
    for scorer, arm in sorted(asked, key=lambda one: (SCORERS.index(one[0]), one[1])):
        verdicts = judged.verdicts(scorer, arm)
        rows = np.flatnonzero(verdicts.asked)
        about = _about(judged, verdicts, rows) | {"n": verdicts.n_judged[rows]}
        for metric, found in _metrics(judged, verdicts, ranks.get((scorer, arm)), confidence).items():
            named = {"scorer": scorer, "arm": arm, "metric": metric}
            constant = {name: np.full(len(rows), value, dtype=object) for name, value in named.items()}
            tables.append({**constant, **about, **found[rows].ends})
    return {name: np.concatenate([table[name] for table in tables]) if tables else np.empty(0) for name in _COLUMNS}


def scorer_table(values: dict[str, ndarray], confidence: float) -> list[dict[str, Any]]:
    """[scorer, explainer, source, arm, metric, value, low, high, n] of `scorer_values`; n latents have a value."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, key in enumerate(zip(*(values[name] for name in _NAMES), strict=True)):
        groups.setdefault(key, []).append(i)
    table = []
    for key, rows in groups.items():
        mine = values["value"][rows]
        mean = macro_mean(mine[:, None], confidence)
        named = dict(zip(_NAMES, key, strict=True))
        table.append({**named, **within(named["metric"], mean[0]), "n": int((~np.isnan(mine)).sum())})
    return sorted(table, key=lambda row: (SCORERS.index(row["scorer"]), row["explainer"], row["source"], row["arm"]))


def scorer_rows(table: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    """(scorer, explained by, metric) → arm → its line. The control without explanation stands by itself."""
    rows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for line in table:
        key = line["scorer"], explained_by(line["explainer"], line["source"]), line["metric"]
        rows.setdefault(key, {})[line["arm"]] = line
    return rows


def scored_by_others(values: dict[str, ndarray]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """(coder, latent, explainer, source) → title, value, low, high and n of each scorer of explanations beside
    detection, of `scorer_values`."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for scorer, (metric, title) in COMPARED.items():
        mine = (values["scorer"] == scorer) & (values["metric"] == metric) & (values["arm"] == "plain")
        rows = {name: column[mine & (values["explainer"] != "")] for name, column in values.items()}
        for *about, value, low, high, n in records(rows, *_EXPLANATION, "value", "low", "high", "n"):
            ends = {"value": value, "low": low, "high": high}
            line = {"title": title, "n": n, **{name: None if np.isnan(end) else end for name, end in ends.items()}}
            found.setdefault(tuple(about), []).append(line)
    return found


def _about(judged: Judged, verdicts: Verdicts, rows: ndarray) -> dict[str, ndarray]:
    if verdicts.of_texts:
        return {name: judged.texts[name][rows] for name in ("coder", "latent", "explainer", "source")}
    nobody = np.full(len(rows), "", dtype=object)
    return {**{name: judged.latents[name][rows] for name in ("coder", "latent")}, "explainer": nobody, "source": nobody}


def _metrics(judged: Judged, verdicts: Verdicts, ranks: Ranks | None, confidence: float) -> dict[str, Estimate]:
    if ranks is not None:
        return {"informedness": _bare(_informedness(judged, verdicts)), "auroc": ranks.auroc}
    if verdicts.scorer == INTRUDER:
        return {"above_chance": _bare(_above_chance(verdicts))}
    if verdicts.scorer == SIMULATION:
        return {"correlation": _bare(correlation(_moments(verdicts)))}
    values = np.array([value[0] if value else np.nan for value in verdicts.measured])
    return {"auroc": ranked(judged, verdicts, values, confidence).auroc()}


def _bare(values: Float[ndarray, "R"]) -> Estimate:
    """Without an interval."""
    none = np.full(len(values), np.nan)
    return Estimate(values, none, none)


def _informedness(judged: Judged, verdicts: Verdicts) -> Float[ndarray, "R"]:
    (hits, n), q = verdicts.counts, judged.n_quantiles
    weights = judged.weights(verdicts)
    return INFORMEDNESS(*(rate_values(hits[:, of], n[:, of], weights[:, of]) for of in (slice(q), slice(q, None))))


def _above_chance(verdicts: Verdicts) -> Float[ndarray, "R"]:
    """The mean over questions; each says among how many windows the intruder was."""
    judged = ~np.isnan(verdicts.predicted)
    chance = 1 / np.array([m for (m,) in verdicts.measured[judged]], dtype=np.float64)
    subject, above = verdicts.subject[judged], (verdicts.predicted[judged] - chance) / (1 - chance)
    n = np.bincount(subject, minlength=verdicts.n_subjects)
    total = np.bincount(subject, weights=above, minlength=verdicts.n_subjects)
    return np.asarray(total / np.where(n > 0, n, np.nan))


def _moments(verdicts: Verdicts) -> Float[ndarray, "R 6"]:
    sums = np.zeros((verdicts.n_subjects, 6))
    for subject, of_window in zip(verdicts.subject.tolist(), verdicts.measured, strict=True):
        if of_window:
            sums[subject] += of_window
    return sums
