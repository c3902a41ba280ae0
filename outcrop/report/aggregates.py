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
from outcrop.results import records

MEDIANS = ("accuracy_skill", "accuracy_skill_calibrated", "breadth", "chance_corrected")  # unbounded
WEIGHTED = ("tpr", "fpr", "balanced_accuracy", "informedness", "auroc", "true_accuracy", "average_precision")
CHANCE_AND_BEST = {"balanced_accuracy": (0.5, 1.0), "informedness": (0.0, 1.0), "auroc": (0.5, 1.0)}
_WEIGHED = ("firing_rate", "mean_activation", "selection_probability")
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
        done = set(records({name: scores.about[name][mine] for name in ("coder", "latent")}))
        unscored = np.array([name not in done for name in records(selected, "coder", "latent")], dtype=bool)
        known: dict[bytes, dict[str, Any]] = {}  # by its members: a lone coder has those of all together
        for group in _groups(selected):
            everyone = _member(tables.latents, group)
            members = everyone.tobytes()
            if members not in known:
                n_alive = int((everyone & (tables.latents["n_fired"] > 0)).sum())
                here = scores.of(mine & _member(scores.about, group))
                left = {name: column[unscored & _member(selected, group)] for name, column in selected.items()}
                entry = _entry(here, left, confidence)
                entry["perfect"] = _perfect(here, entry["n_unscored"], n_alive, int(everyone.sum()), confidence)
                known[members] = entry
            named = dict(zip(("coder", "layer", "prefix"), group, strict=True))
            entries.append(known[members] | {"explainer": explainer, "source": source} | named)
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


def _entry(scores: Scores, left: dict[str, ndarray], confidence: float) -> dict[str, Any]:
    """`left` are rows of the latents that were selected but have no score."""
    about = {name: np.concatenate([scores.about[name], left[name]]) for name in ("coder", *_WEIGHED)}
    _, coder = np.unique(about["coder"].astype(str), return_inverse=True)
    n, one = len(scores.about["coder"]), np.ones(len(coder))
    ours = scores.arms["explanation"]
    return {
        "n_scored": n,
        "n_unscored": len(coder) - n,
        "macro": {arm: _macro(scores.arms[arm], confidence) for arm in ARMS},
        "weighted": {
            name: {"n_effective": _effective(weights[:n], coder[:n])}
            | {arm: _weighted(scores.arms[arm], weights[:n], coder[:n], confidence) for arm in ARMS}
            | {"unscored": _with_unscored(ours, weights, coder, confidence, "weighted mean")}
            for name, weights in _weights(about).items()
        },
        "unscored": _with_unscored(ours, one, 0 * coder, confidence, "mean"),
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
    rate, mean, probability = (about[name].astype(float) for name in _WEIGHED)
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
    columns: dict[str, Column], weights: ndarray, coder: Int[ndarray, "n"], confidence: float, statistic: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """metric → how the latents without a score are counted → their mean; their weights stand behind the others'."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for metric, (chance, best) in CHANCE_AND_BEST.items():
        scores = np.full(len(weights), np.nan)
        scores[: len(columns[metric].n)] = columns[metric].estimate.value
        versions = {"at_chance": unscored_at(scores, chance), "left_out": scores, "at_best": unscored_at(scores, best)}
        found[metric] = {}
        for version, values in versions.items():
            mean = weighted_mean(values[:, None], weights, coder, confidence)
            found[metric] |= {version: _entries((metric,), mean, values[weights > 0, None], statistic)[metric]}
    return found
