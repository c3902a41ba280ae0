"""Averages over latents: per explainer, and there per layer, per coder and over all, each with an interval and its n.

macro        each scored latent once; medians for what is unbounded
weighted     by firing rate, by activation mass, and by firing rate without the latents above
             10% of tokens; within a coder, then averaged over coders
unscored     selected latents without a score at chance, left out, and at the best value
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.metrics.coverage import (
    effective_sample_size,
    group_shares,
    hajek_weights,
    macro_mean,
    median,
    unscored_at,
    weighted_mean,
)
from outcrop.metrics.rates import Estimate, Sampling
from outcrop.report.judged import ARMS, Judged
from outcrop.report.scores import Column
from outcrop.results import Results

MEDIANS = ("accuracy_skill", "breadth", "chance_corrected")  # unbounded
WEIGHTED = ("tpr", "fpr", "balanced_accuracy", "informedness", "auroc", "true_accuracy")
CHANCE_AND_BEST = {"balanced_accuracy": (0.5, 1.0), "informedness": (0.0, 1.0), "auroc": (0.5, 1.0)}
_FREQUENT_RATE = 0.1

Columns = dict[str, dict[str, Column]]


def aggregates(results: Results, judged: Judged, columns: Columns, sampling: Sampling) -> list[dict[str, Any]]:
    """Of each explainer one entry over everything, one per coder, one per layer that has selected latents."""
    coder, layer = judged.columns["coder"], judged.columns["layer"]
    selected = results.columns("SELECT coder, layer FROM latents WHERE selection_probability IS NOT NULL")
    entries = []
    for explainer, source in judged.explainers:
        scored = judged.scored & judged.by(explainer, source)
        for name, at in _groups(selected["coder"], selected["layer"]):
            rows = scored & _member(coder, layer, name, at)
            n_selected = int(_member(selected["coder"], selected["layer"], name, at).sum())
            entry = _entry(judged, columns, rows, n_selected - int(rows.sum()), sampling)
            entries.append(entry | {"explainer": explainer, "source": source, "coder": name, "layer": at})
    return entries


def _groups(coder: ndarray, layer: ndarray) -> list[tuple[str | None, int | None]]:
    """Coder and layer of each entry, of selected latents: one whose latents all failed is one, too."""
    coders = [str(name) for name in coder]
    layers = {(name, int(x)) for name, x in zip(coders, layer, strict=True)}
    groups: list[tuple[str | None, int | None]] = [(None, None)]
    for name in sorted(set(coders)):
        groups += [(name, None), *sorted(pair for pair in layers if pair[0] == name)]
    return groups


def _member(coder: ndarray, layer: ndarray, name: str | None, at: int | None) -> Bool[ndarray, "N"]:
    """Which latents are of this coder, and in this layer; None stands for all."""
    everyone = np.ones(len(coder), dtype=bool)
    of_coder = everyone if name is None else coder == name
    return np.asarray(of_coder & (everyone if at is None else layer == at))


def _entry(
    judged: Judged, columns: Columns, rows: Bool[ndarray, "N"], n_unscored: int, sampling: Sampling
) -> dict[str, Any]:
    _, coder = np.unique(judged.columns["coder"][rows].astype(str), return_inverse=True)
    return {
        "n_scored": int(rows.sum()),
        "n_unscored": n_unscored,
        "macro": {arm: _macro(columns[arm], rows, sampling) for arm in ARMS},
        "weighted": {
            name: {"n_effective": _effective(weights, coder)}
            | {arm: _weighted(columns[arm], rows, weights, coder, sampling) for arm in ARMS}
            for name, weights in _weights(judged, rows).items()
        },
        "unscored": {
            metric: _with_unscored(columns["explanation"][metric], rows, n_unscored, ends, sampling)
            for metric, ends in CHANCE_AND_BEST.items()
        },
    }


def _weights(judged: Judged, rows: Bool[ndarray, "N"]) -> dict[str, Float[ndarray, "n"]]:
    rate, mean, probability = (
        judged.columns[name][rows].astype(float) for name in ("firing_rate", "mean_activation", "selection_probability")
    )
    firing = hajek_weights(rate, probability)
    return {
        "firing_rate": firing,
        "activation_mass": hajek_weights(rate * mean, probability),
        "firing_rate_below_10_percent": np.where(rate <= _FREQUENT_RATE, firing, 0.0),
    }


def _effective(weights: ndarray, coder: Int[ndarray, "n"]) -> float:
    carried = weights > 0
    return effective_sample_size(group_shares(weights[carried], coder[carried]))


def _values(columns: dict[str, Column], names: tuple[str, ...], rows: ndarray) -> Float[ndarray, "n K"]:
    return np.array([columns[name].estimate.value[rows] for name in names]).reshape(len(names), -1).T


def _macro(columns: dict[str, Column], rows: ndarray, sampling: Sampling) -> dict[str, Any]:
    means = tuple(name for name in columns if name not in MEDIANS)
    medians = tuple(name for name in MEDIANS if name in columns)
    by_mean, by_median = _values(columns, means, rows), _values(columns, medians, rows)
    return _entries(means, macro_mean(by_mean, sampling), by_mean, "mean") | _entries(
        medians, median(by_median, sampling), by_median, "median"
    )


def _weighted(
    columns: dict[str, Column], rows: ndarray, weights: ndarray, coder: ndarray, sampling: Sampling
) -> dict[str, Any]:
    carried = weights > 0
    scores = _values(columns, WEIGHTED, rows)[carried]
    estimate = weighted_mean(scores, weights[carried], coder[carried], sampling)
    return _entries(WEIGHTED, estimate, scores, "weighted mean")


def _entries(names: tuple[str, ...], estimate: Estimate, scores: ndarray, statistic: str) -> dict[str, Any]:
    n = (~np.isnan(scores)).sum(0)
    return {
        name: {
            "value": estimate.value[i],
            "low": estimate.low[i],
            "high": estimate.high[i],
            "n": int(n[i]),
            "statistic": statistic,
        }
        for i, name in enumerate(names)
    }


def _with_unscored(
    column: Column, rows: ndarray, n_unscored: int, ends: tuple[float, float], sampling: Sampling
) -> dict[str, Any]:
    left_out = column.estimate.value[rows]
    everyone = np.concatenate([left_out, np.full(n_unscored, np.nan)])
    versions = {
        "at_chance": unscored_at(everyone, ends[0]),
        "left_out": left_out,
        "at_best": unscored_at(everyone, ends[1]),
    }
    return {
        name: _entries((name,), macro_mean(scores[:, None], sampling), scores[:, None], "mean")[name]
        for name, scores in versions.items()
    }
