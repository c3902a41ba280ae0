"""Averages over latents: per explainer, and there over all, per coder, layer and matryoshka prefix, each with an
interval and its n.

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
from outcrop.metrics.perfect import perfect_share, share_truly_above
from outcrop.metrics.rates import Estimate
from outcrop.report.judged import ARMS, explainers
from outcrop.report.scores import PERFECT_WINDOWS, Column, Scores, within
from outcrop.report.tables import Tables

MEDIANS = ("accuracy_skill", "accuracy_skill_calibrated", "breadth", "chance_corrected")  # unbounded
WEIGHTED = ("tpr", "fpr", "balanced_accuracy", "informedness", "auroc", "true_accuracy", "average_precision")
CHANCE_AND_BEST = {"balanced_accuracy": (0.5, 1.0), "informedness": (0.0, 1.0), "auroc": (0.5, 1.0)}
_FREQUENT_RATE = 0.1

_Group = tuple[str | None, int | None, int | None]  # coder, layer, prefix; None stands for all


def aggregates(tables: Tables, confidence: float) -> list[dict[str, Any]]:
    """Of each explainer one entry over everything, then one per coder, per layer, and per prefix of each, of those that
    have selected latents."""
    selected = {
        name: column[~np.isnan(tables.latents["selection_probability"].astype(float))]
        for name, column in tables.latents.items()
    }
    scores, entries = tables.scores, []
    for explainer, source in explainers(scores.about):
        mine = scores.scored & scores.by(explainer, source)
        for group in _groups(selected):
            everyone = _member(tables.latents, group)
            n_alive = int((everyone & (tables.latents["n_fired"] > 0)).sum())
            here = scores.of(mine & _member(scores.about, group))
            n_unscored = int(_member(selected, group).sum()) - len(here.about["coder"])
            named = dict(zip(("coder", "layer", "prefix"), group, strict=True))
            entry = _entry(here, n_unscored, confidence)
            entry["perfect"] = _perfect(here, n_unscored, n_alive, int(everyone.sum()), confidence)
            entries.append(entry | {"explainer": explainer, "source": source} | named)
    return entries


def _groups(selected: dict[str, ndarray]) -> list[_Group]:
    """Of selected latents: one whose latents all failed is one, too. A lone prefix is no group of its own."""
    coders, layers, prefixes = (selected[name].tolist() for name in ("coder", "layer", "prefix"))
    found: list[_Group] = [(None, None, None)]
    for name in sorted(set(coders)):
        found.append((name, None, None))
        for layer in sorted({at for coder, at in zip(coders, layers, strict=True) if coder == name}):
            found.append((name, layer, None))
            here = {p for coder, at, p in zip(coders, layers, prefixes, strict=True) if (coder, at) == (name, layer)}
            found += [(name, layer, prefix) for prefix in sorted(here) if len(here) > 1]
    return found


def _member(table: dict[str, ndarray], group: _Group) -> Bool[ndarray, "N"]:
    member = np.ones(len(table["coder"]), dtype=bool)
    for name, wanted in zip(("coder", "layer", "prefix"), group, strict=True):
        if wanted is not None:
            member &= table[name] == wanted
    return member


def _entry(scores: Scores, n_unscored: int, confidence: float) -> dict[str, Any]:
    _, coder = np.unique(scores.about["coder"].astype(str), return_inverse=True)
    return {
        "n_scored": len(coder),
        "n_unscored": n_unscored,
        "macro": {arm: _macro(scores.arms[arm], confidence) for arm in ARMS},
        "weighted": {
            name: {"n_effective": _effective(weights, coder)}
            | {arm: _weighted(scores.arms[arm], weights, coder, confidence) for arm in ARMS}
            for name, weights in _weights(scores.about).items()
        },
        "unscored": {
            metric: _with_unscored(scores.arms["explanation"][metric], n_unscored, ends, confidence)
            for metric, ends in CHANCE_AND_BEST.items()
        },
    }


def _perfect(scores: Scores, n_unscored: int, n_alive: int, n_all: int, confidence: float) -> dict[str, Any]:
    """The share of latents whose drawn windows were all judged right, among those to be scored, alive, and all; missing
    where nowhere enough windows were judged. And the share whose true balanced accuracy exceeds 0.9."""
    enough, perfect = (np.r_[scores.about[name], np.zeros(n_unscored)].astype(bool) for name in ("enough", "perfect"))
    n_windows = 2 * PERFECT_WINDOWS
    shares = dict.fromkeys(("of_scored", "of_alive", "of_all"))
    if enough.any():
        n = np.full(len(enough), n_windows)
        found = perfect_share(n * perfect, n, enough, n_alive, n_all, confidence)
        shares = {name: getattr(found, name).numbers for name in shares}
    above = share_truly_above(*_counts_of(scores), np.random.default_rng(0), confidence)
    truly = {**above.numbers, "n": len(scores.about["coder"])}
    return {"n_windows": n_windows, "n_enough": int(enough.sum()), **shares, "truly_above": truly}


def _counts_of(scores: Scores) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Hits of activating and rejections of other windows, each of so many: p̂ n_eff of n_eff."""
    of = scores.arms["explanation"]
    known = ~(np.isnan(of["tpr"].estimate.value) | np.isnan(of["fpr"].estimate.value))
    tpr, fpr = (of[name].estimate.value[known] for name in ("tpr", "fpr"))
    up, down = (scores.about[f"{name}_size"][known] for name in ("tpr", "fpr"))
    return tpr * up, up, (1 - fpr) * down, down


def _weights(about: dict[str, ndarray]) -> dict[str, Float[ndarray, "n"]]:
    rate, mean, probability = (
        about[name].astype(float) for name in ("firing_rate", "mean_activation", "selection_probability")
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


def _values(columns: dict[str, Column], names: tuple[str, ...]) -> Float[ndarray, "n K"]:
    return np.array([columns[name].estimate.value for name in names]).reshape(len(names), -1).T


def _macro(columns: dict[str, Column], confidence: float) -> dict[str, Any]:
    means = tuple(name for name in columns if name not in MEDIANS)
    medians = tuple(name for name in MEDIANS if name in columns)
    by_mean, by_median = _values(columns, means), _values(columns, medians)
    return _entries(means, macro_mean(by_mean, confidence), by_mean, "mean") | _entries(
        medians, median(by_median, confidence), by_median, "median"
    )


def _weighted(columns: dict[str, Column], weights: ndarray, coder: ndarray, confidence: float) -> dict[str, Any]:
    scores = _values(columns, WEIGHTED)
    return _entries(WEIGHTED, weighted_mean(scores, weights, coder, confidence), scores[weights > 0], "weighted mean")


def _entries(names: tuple[str, ...], estimate: Estimate, scores: ndarray, statistic: str) -> dict[str, Any]:
    n = (~np.isnan(scores)).sum(0)
    return {name: {**within(name, estimate[i]), "n": int(n[i]), "statistic": statistic} for i, name in enumerate(names)}


def _with_unscored(
    column: Column, n_unscored: int, ends: tuple[float, float], confidence: float
) -> dict[str, dict[str, Any]]:
    left_out = column.estimate.value
    everyone = np.concatenate([left_out, np.full(n_unscored, np.nan)])
    versions = {
        "at_chance": unscored_at(everyone, ends[0]),
        "left_out": left_out,
        "at_best": unscored_at(everyone, ends[1]),
    }
    return {
        name: _entries((name,), macro_mean(scores[:, None], confidence), scores[:, None], "mean")[name]
        for name, scores in versions.items()
    }
