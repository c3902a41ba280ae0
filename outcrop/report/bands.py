"""What the bands of a latent say of each other: agreement, low-activation polysemanticity, drop-off, and a label.

Of every explainer that explained the thirds of the activating windows one by one (sources low, middle, high). Which
third a scored window belongs to is its rank by peak among the latent's scored activating windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from outcrop.interp.explain import BANDS
from outcrop.metrics.coverage import macro_mean
from outcrop.metrics.dropoff import PairedPosteriors, cell_weights, drop_off
from outcrop.metrics.pings import LABELS, POLYSEMANTIC, labels
from outcrop.metrics.quantiles import HIGH, LOW, BandCounts, across_bands
from outcrop.metrics.rates import Estimate
from outcrop.report.judged import STRATA, Judged, Verdicts, Windows, ranked_within
from outcrop.results import records
from outcrop.types import RELATIONS

MEASURES = ("agreement", "low_polysemanticity", "drop_off")


@dataclass(frozen=True)
class _Explained:
    """B latents explained band by band."""

    texts: Int[ndarray, "B 3"]  # their rows in `Judged.texts`
    latent: Int[ndarray, "B"]  # in `Judged.latents`
    explainer: ndarray
    place: Int[ndarray, "N"]  # 3 b + band of each text; −1 for others


def band_table(
    judged: Judged, verdicts: Verdicts, posterior: Float[ndarray, "n"], confidence: float
) -> dict[str, ndarray]:
    """One row per latent and such explainer: coder, latent, explainer, label, the measures with their ends, and M as
    `m.low.high` (the explanation from the low band on windows of the high one) and so on. `posterior` is p′ of each
    verdict."""
    explained = _explained(judged)
    band = thirds(judged.windows, judged.n_quantiles)
    counts = _counts(judged, verdicts, explained, band)
    bands = across_bands(counts, confidence)
    mass = _mass(judged.windows, band, len(judged.latents["coder"]))[explained.latent]
    drop = _drop_off(judged, verdicts, posterior, explained, band, confidence)
    drop = replace(drop, value=np.where(bands.telling, drop.value, np.nan))
    measures = dict(zip(MEASURES, (bands.agreement, bands.low_polysemanticity, drop), strict=True))
    measures |= {f"m.{a}.{b}": bands.informedness[:, i, j] for i, a in enumerate(BANDS) for j, b in enumerate(BANDS)}
    columns = {name: judged.latents[name][explained.latent] for name in ("coder", "latent")}
    columns |= {"explainer": explained.explainer, "label": labels(bands, mass).astype(object), "low_mass": mass[:, LOW]}
    columns |= _relations(judged, explained)
    for name, of in measures.items():
        columns |= of.columns(name)
    return columns


def band_summary(table: dict[str, ndarray], confidence: float) -> list[dict[str, Any]]:
    """Per explainer: n latents, labels {label: n}, pinged [coder, latent]; means of agreement and low_polysemanticity
    and of the drop-off in bits, with interval and the n that have one."""
    found = []
    for explainer in sorted(set(table["explainer"].tolist())):
        mine = table["explainer"] == explainer
        label = table["label"][mine]
        pinged = records({name: table[name][mine][label == POLYSEMANTIC] for name in ("coder", "latent")})
        means = {name: _mean(table[name][mine].astype(float), confidence) for name in MEASURES}
        found.append(
            {
                "explainer": explainer,
                "n": int(mine.sum()),
                "labels": {name: int((label == name).sum()) for name in LABELS},
                "relations": _counted_relations(table, mine),
                "pinged": [{"coder": coder, "latent": latent} for coder, latent in pinged],
                **means,
            }
        )
    return found


def _counted_relations(table: dict[str, ndarray], mine: ndarray) -> dict[str, dict[str, int]]:
    """Of each pair of bands, how often the judge said what of the first, and how often nothing that could be read."""
    pairs = (name for name in table if name.startswith("relation."))
    said = (*RELATIONS, "failed")
    return {
        pair.removeprefix("relation."): {name: int((table[pair][mine] == name).sum()) for name in said}
        for pair in pairs
    }


def _mean(values: Float[ndarray, "n"], confidence: float) -> dict[str, Any]:
    mean = macro_mean(values[:, None], confidence)
    return {**mean[0].numbers, "n": int((~np.isnan(values)).sum())}


def _relations(judged: Judged, explained: _Explained) -> dict[str, ndarray]:
    """`relation.low.high` and so on: the judge's word on each pair; None where it was not asked."""
    table = judged.relations
    names = ("coder", "latent", "explainer", "first", "second")
    said = dict(zip(records(table, *names), table["relation"].tolist(), strict=True))
    latents = records({name: judged.latents[name][explained.latent] for name in ("coder", "latent")})
    keys = [(*latent, explainer) for latent, explainer in zip(latents, explained.explainer.tolist(), strict=True)]
    return {
        f"relation.{a}.{b}": np.array([said.get((*key, a, b)) for key in keys], dtype=object)
        for a, b in combinations(BANDS, 2)
    }


def thirds(windows: Windows, n_quantiles: int) -> Int[ndarray, "E"]:
    """0 low, 1 middle, 2 high; −1 for windows that are not scored activating ones."""
    mine = np.flatnonzero((windows.cell >= 0) & (windows.cell < n_quantiles))
    rank, n = ranked_within(windows.latent[mine], windows.peak[mine], len(windows.start))
    band = np.full(len(windows.cell), -1)
    band[mine] = 3 * rank // n[windows.latent[mine]]
    return band


def _explained(judged: Judged) -> _Explained:
    """Those of whose three bands there is an explanation."""
    texts = judged.texts
    found: dict[tuple[int, str], dict[str, int]] = {}
    for row, source in enumerate(texts["source"].tolist()):
        if source in BANDS:
            found.setdefault((int(judged.latent_of[row]), texts["explainer"][row]), {})[source] = row
    whole = {key: [rows[band] for band in BANDS] for key, rows in found.items() if len(rows) == len(BANDS)}
    rows = np.array([*whole.values()], dtype=np.int64).reshape(-1, len(BANDS))
    place = np.full(len(texts["source"]), -1)
    place[rows.ravel()] = np.arange(rows.size)
    latents, explainers = ([key[part] for key in whole] for part in (0, 1))
    return _Explained(rows, np.array(latents, dtype=np.int64), np.array(explainers, dtype=object), place)


def _counts(judged: Judged, verdicts: Verdicts, explained: _Explained, band: ndarray) -> BandCounts:
    kept = (explained.place[verdicts.subject] >= 0) & ~np.isnan(verdicts.predicted)
    place, yes = explained.place[verdicts.subject[kept]], verdicts.predicted[kept]
    third, cell = band[verdicts.window[kept]], verdicts.cell[kept] - judged.n_quantiles
    n = len(explained.latent)
    hits, n_activating = (_counted(place, third, weight, (n, 3, 3)) for weight in (yes, None))
    alarms, n_others = (_counted(place, cell, weight, (n, 3, len(STRATA))) for weight in (yes, None))
    return BandCounts(hits, n_activating, alarms, n_others, judged.shares[explained.latent])


def _counted(
    place: Int[ndarray, "n"], column: Int[ndarray, "n"], weight: ndarray | None, shape: Sequence[int]
) -> Int[ndarray, "N 3 columns"]:
    """How many, or how much, of each place and column; column −1 and below is none."""
    kept = column >= 0
    flat = place[kept] * shape[2] + column[kept]
    weights = None if weight is None else weight[kept]
    return np.bincount(flat, weights=weights, minlength=int(np.prod(shape))).reshape(shape).astype(np.int64)


def _mass(windows: Windows, band: ndarray, n_latents: int) -> Float[ndarray, "L 3"]:
    """Each band's share of Σ activation over the scored activating windows; NaN where there are none."""
    kept = band >= 0
    sums = np.bincount(windows.latent[kept] * 3 + band[kept], weights=windows.mass[kept], minlength=3 * n_latents)
    mass = sums.reshape(n_latents, 3).astype(np.float64)
    total = mass.sum(axis=1, keepdims=True)
    return mass / np.where(total > 0, total, np.nan)


def _drop_off(
    judged: Judged, verdicts: Verdicts, posterior: ndarray, explained: _Explained, band: ndarray, confidence: float
) -> Estimate:
    """Over the windows that were judged under both explanations."""
    place = explained.place[verdicts.subject]
    key = place // 3 * len(band) + verdicts.window
    of = [np.flatnonzero((place >= 0) & (place % 3 == which) & ~np.isnan(posterior)) for which in (LOW, HIGH)]
    _, first, second = np.intersect1d(key[of[0]], key[of[1]], assume_unique=True, return_indices=True)
    low, high = of[0][first], of[1][second]
    third, cell = band[verdicts.window[low]], verdicts.cell[low] - judged.n_quantiles
    windows = PairedPosteriors(posterior[low], posterior[high], place[low] // 3, np.where(third >= 0, third, 3 + cell))
    rate = judged.texts["context_rate"].astype(float)[explained.texts[:, LOW]]
    return drop_off(windows, cell_weights(rate, judged.shares[explained.latent]), confidence)
