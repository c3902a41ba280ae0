"""Two runs side by side: what differs, by how much, and how sure one can be.

Over the same coders latents are compared one by one; over different ones as populations, within bins of firing rate
and, where the runs share hookpoints, within hookpoints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from outcrop.metrics.comparison import Population, unpaired
from outcrop.metrics.coverage import macro_mean, median
from outcrop.report.aggregates import MEDIANS
from outcrop.report.judged import explainers
from outcrop.report.scores import Scores
from outcrop.report.summary import plain
from outcrop.report.tables import Tables
from outcrop.results import records
from outcrop.types import CoderKey

METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "balanced_accuracy_random": "balanced accuracy against random windows",
    "balanced_accuracy_same_token": "balanced accuracy against same-token windows",
    "chance_corrected": "balanced accuracy corrected for the control (median)",
    "informedness": "informedness J",
    "auroc": "AUROC",
    "true_accuracy": "true accuracy",
    "accuracy_skill": "accuracy skill (median)",
    "token_illusion": "token illusion",
    "beyond_tokens": "J beyond tokens",
}
_N_MOVED = 20


def compare(first: Tables, second: Tables, *, same_coders: dict[str, str], confidence: float) -> dict[str, Any]:
    """paired; coders [first, second]; explainers [first, second, metrics {metric: {first, second,
    difference {value, low, high}, n}}, only_first, only_second, n_apart, moved [coder, latent, first {value, low, high,
    n, text}, second {…}, difference, apart]]; differences are second − first, and latents are apart whose intervals do
    not meet. n: latents compared, or judgements of one. `same_coders`: the names of coders of the same weights, in the
    first run and in the second; without any, runs are compared as populations."""
    pairs = _explainers(first.scores, second.scores)
    compared = [_compared(first.scores, second.scores, *pair, same_coders, confidence) for pair in pairs]
    coders = [{"first": mine, "second": other} for mine, other in same_coders.items()]
    about = {"paired": bool(coders), "coders": coders, "confidence": confidence}
    found: dict[str, Any] = plain(about | {"explainers": compared})
    return found


def _explainers(first: Scores, second: Scores) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Those that both have; else the first of each."""
    mine, others = explainers(first.about), explainers(second.about)
    return [(one, one) for one in mine if one in others] or [(mine[0], others[0])]


def _compared(
    first: Scores,
    second: Scores,
    mine: tuple[str, str],
    other: tuple[str, str],
    same: dict[str, str],
    confidence: float,
) -> dict[str, Any]:
    a, b = first.of(first.scored & first.by(*mine)), second.of(second.scored & second.by(*other))
    rows, columns = _shared(a, b, same)
    both, paired = (a.of(rows), b.of(columns)), bool(same)
    places = _places(a, b)
    return {
        "first": {"explainer": mine[0], "source": mine[1]},
        "second": {"explainer": other[0], "source": other[1]},
        "metrics": {
            name: _paired(*both, name, confidence) if paired else _unpaired(a, b, places, name, confidence)
            for name in METRICS
        },
        "only_first": int(np.isin(a.about["coder"], [*same]).sum()) - len(rows) if paired else None,
        "only_second": int(np.isin(b.about["coder"], [*same.values()]).sum()) - len(columns) if paired else None,
        **(_moved(*both) if paired else {"n_apart": None, "moved": []}),
    }


def _shared(a: Scores, b: Scores, same: dict[str, str]) -> tuple[Int[ndarray, "n"], Int[ndarray, "n"]]:
    """The rows of the latents that both scored."""
    mine, others = (records(of.about, "coder", "latent") for of in (a, b))
    place = {name: i for i, name in enumerate(others)}
    named = ((same.get(coder), latent) for coder, latent in mine)
    both = [(i, place[name]) for i, name in enumerate(named) if name in place]
    rows = np.array(both, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _values(scores: Scores, metric: str) -> ndarray:
    return scores.arms["explanation"][metric].estimate.value


def _paired(first: Scores, second: Scores, metric: str, confidence: float) -> dict[str, Any]:
    a, b = _values(first, metric), _values(second, metric)
    both = ~np.isnan(a) & ~np.isnan(b)
    summed = median if metric in MEDIANS else macro_mean
    columns = (a[both, None], b[both, None], (b - a)[both, None])
    mine, other, difference = (summed(column, confidence) for column in columns)
    means = {"first": float(mine.value[0]), "second": float(other.value[0])}
    return means | {"difference": difference[0].numbers, "n": int(both.sum())}


def _unpaired(first: Scores, second: Scores, places: list[ndarray], metric: str, confidence: float) -> dict[str, Any]:
    summed = median if metric in MEDIANS else macro_mean
    mine, other = (float(summed(_values(of, metric)[:, None], confidence).value[0]) for of in (first, second))
    a, b = (
        Population(_values(of, metric), of.about["firing_rate"].astype(float), place)
        for of, place in zip((first, second), places, strict=True)
    )
    difference, n = unpaired(a, b, confidence)
    return {"first": mine, "second": other, "difference": difference.numbers, "n": n}


def _places(*runs: Scores) -> list[ndarray]:
    """The hookpoint of every latent as a number; one for all where the runs share none."""
    places = [[CoderKey.parse(name).place for name in of.about["coder"].tolist()] for of in runs]
    apart = set.intersection(*map(set, places))
    number = {place: i for i, place in enumerate(dict.fromkeys(place for of in places for place in of))}
    return [np.array([number[place] if apart else 0 for place in of], dtype=np.int64) for of in places]


def _moved(a: Scores, b: Scores) -> dict[str, Any]:
    """The latents whose balanced accuracy changed most, those that are apart before the others, and how many are."""
    columns = [of.arms["explanation"]["balanced_accuracy"] for of in (a, b)]
    mine, other = (column.estimate for column in columns)
    apart = (mine.high < other.low) | (other.high < mine.low)
    change = other.value - mine.value
    order = np.lexsort((-np.abs(change), ~apart))
    rows = [i for i in order.tolist() if abs(change[i]) > 0][:_N_MOVED]
    moved = [
        {
            "coder": a.about["coder"][i],
            "latent": int(a.about["latent"][i]),
            **{
                which: column.estimate[i].numbers | {"n": int(column.n[i]), "text": of.about["text"][i]}
                for which, column, of in zip(("first", "second"), columns, (a, b), strict=True)
            },
            "difference": float(change[i]),
            "apart": bool(apart[i]),
        }
        for i in rows
    ]
    return {"n_apart": int(apart.sum()), "moved": moved}
