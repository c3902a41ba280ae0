"""Two runs side by side: what differs, by how much, and how sure one can be.

Over the same coder latents are compared one by one; over different ones as populations, within bins of firing rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from outcrop.metrics.comparison import unpaired
from outcrop.metrics.coverage import macro_mean, median
from outcrop.report.aggregates import MEDIANS
from outcrop.report.judged import explainers
from outcrop.report.scores import Scores
from outcrop.report.summary import plain
from outcrop.report.tables import Tables

METRICS = (
    "balanced_accuracy",
    "balanced_accuracy_random",
    "balanced_accuracy_same_token",
    "informedness",
    "auroc",
    "true_accuracy",
    "accuracy_skill",
    "token_illusion",
    "beyond_tokens",
    "chance_corrected",
)
_N_MOVED = 20


def compare(first: Tables, second: Tables, *, same_coders: bool, confidence: float) -> dict[str, Any]:
    """paired; explainers [first, second, metrics {metric: {first, second, difference {value, low, high}, n}},
    only_first, only_second, moved [coder, latent, first, second, difference {…}, texts]]; differences are
    second − first. n: latents compared. `same_coders`: whether both runs scored the latents of the same weights."""
    pairs = _explainers(first.scores, second.scores)
    compared = [_compared(first.scores, second.scores, *pair, same_coders, confidence) for pair in pairs]
    found: dict[str, Any] = plain({"paired": same_coders, "confidence": confidence, "explainers": compared})
    return found


def _explainers(first: Scores, second: Scores) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Those that both have; else the first of each."""
    mine, others = explainers(first.about), explainers(second.about)
    return [(one, one) for one in mine if one in others] or [(mine[0], others[0])]


def _compared(
    first: Scores, second: Scores, mine: tuple[str, str], other: tuple[str, str], paired: bool, confidence: float
) -> dict[str, Any]:
    a, b = first.of(first.scored & first.by(*mine)), second.of(second.scored & second.by(*other))
    rows, columns = _shared(a, b) if paired else (np.arange(len(a.scored)), np.arange(len(b.scored)))
    measured = _paired if paired else _unpaired
    return {
        "first": {"explainer": mine[0], "source": mine[1]},
        "second": {"explainer": other[0], "source": other[1]},
        "metrics": {
            name: measured(_values(a, name)[rows], _values(b, name)[columns], (a, b), name, confidence)
            for name in METRICS
        },
        "only_first": len(a.scored) - len(rows) if paired else None,
        "only_second": len(b.scored) - len(columns) if paired else None,
        "moved": _moved(a.of(rows), b.of(columns)) if paired else [],
    }


def _shared(a: Scores, b: Scores) -> tuple[Int[ndarray, "n"], Int[ndarray, "n"]]:
    """The rows of the latents that both scored."""
    names = [list(zip(of.about["coder"].tolist(), of.about["latent"].tolist(), strict=True)) for of in (a, b)]
    place = {name: i for i, name in enumerate(names[1])}
    both = [(i, place[name]) for i, name in enumerate(names[0]) if name in place]
    rows = np.array(both, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _values(scores: Scores, metric: str) -> ndarray:
    return scores.arms["explanation"][metric].estimate.value


def _paired(a: ndarray, b: ndarray, _: tuple[Scores, Scores], metric: str, confidence: float) -> dict[str, Any]:
    both = ~np.isnan(a) & ~np.isnan(b)
    summed = median if metric in MEDIANS else macro_mean
    columns = (a[both, None], b[both, None], (b - a)[both, None])
    first, second, difference = (summed(column, confidence) for column in columns)
    means = {"first": float(first.value[0]), "second": float(second.value[0])}
    return means | {"difference": difference[0].numbers, "n": int(both.sum())}


def _unpaired(a: ndarray, b: ndarray, of: tuple[Scores, Scores], metric: str, confidence: float) -> dict[str, Any]:
    rates = [scores.about["firing_rate"].astype(float) for scores in of]
    summed = median if metric in MEDIANS else macro_mean
    first, second = (float(summed(values[:, None], confidence).value[0]) for values in (a, b))
    difference, n = unpaired(a, rates[0], b, rates[1], confidence)
    return {"first": first, "second": second, "difference": difference.numbers, "n": n}


def _moved(a: Scores, b: Scores) -> list[dict[str, Any]]:
    """The latents whose balanced accuracy changed most, of those whose intervals do not meet."""
    mine, other = (of.arms["explanation"]["balanced_accuracy"].estimate for of in (a, b))
    apart = (mine.high < other.low) | (other.high < mine.low)
    change = other.value - mine.value
    rows = [i for i in np.argsort(-np.abs(change)).tolist() if apart[i]][:_N_MOVED]
    return [
        {
            "coder": a.about["coder"][i],
            "latent": int(a.about["latent"][i]),
            "first": mine[i].numbers | {"text": a.about["text"][i]},
            "second": other[i].numbers | {"text": b.about["text"][i]},
            "difference": float(change[i]),
        }
        for i in rows
    ]
