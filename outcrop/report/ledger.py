"""The ledger of every latent, what was cached, and what the scored latents stand for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy import ndarray

from outcrop.metrics.coverage import coverage, status_counts
from outcrop.results import STATUSES, Results
from outcrop.types import CoderKey

_LATENTS = """
SELECT l.coder, l.layer, l.n_fired, l.firing_rate, l.mean_activation, g.status, g.stage, g.reason
FROM latents l JOIN ledger g USING (coder, latent) ORDER BY l.coder, l.latent
"""
_BINS_PER_DECADE = 4


def coder_names(results: Results) -> list[str]:
    return [str(name) for name in results.columns("SELECT coder FROM coders ORDER BY coder")["coder"]]


def coder_label(name: str) -> str:
    """A coder's key as people read it: `topk at transformer.h.5`."""
    key = CoderKey.parse(name)
    place = f"{key.source}" if key.source == key.target else f"{key.source} → {key.target}"
    return f"{key.setting} at {place}" + (f", seed {key.seed}" if key.seed else "")


def ledger(results: Results) -> dict[str, Any]:
    """Latents per status, in total, per coder and per layer; failures by stage and kind."""
    table = results.columns(_LATENTS)
    return {
        "n_latents": len(table["coder"]),
        "counts": status_counts(table["status"], STATUSES),
        "coders": [_coder_ledger(table, name) for name in coder_names(results)],
        "failures": _failures(table),
        "failed_judgements": _failed_judgements(results),
    }


def _coder_ledger(table: dict[str, ndarray], name: str) -> dict[str, Any]:
    mine = table["coder"] == name
    scored = table["status"][mine] == "scored"
    rate = table["firing_rate"][mine].astype(float)
    mass = rate * table["mean_activation"][mine].astype(float)
    layers = table["layer"][mine]
    return {
        "coder": name,
        "label": coder_label(name),
        "n_latents": int(mine.sum()),
        "counts": status_counts(table["status"][mine], STATUSES),
        "layers": [
            {"layer": int(layer), "counts": status_counts(table["status"][mine][layers == layer], STATUSES)}
            for layer in np.unique(layers)
        ],
        "coverage": {"firing": coverage(rate, scored), "activation_mass": coverage(mass, scored)},
    }


def _failures(table: dict[str, ndarray]) -> list[dict[str, Any]]:
    """Failed latents by coder, stage and kind, with one full reason of each."""
    failed = np.flatnonzero(table["status"] == "failed")
    columns = (table["coder"], table["stage"], table["reason"])
    rows = [tuple(str(column[i]) for column in columns) for i in failed]
    counts = Counter((coder, stage, reason.partition(":")[0]) for coder, stage, reason in rows)
    examples = {(coder, stage, reason.partition(":")[0]): reason for coder, stage, reason in rows}
    return [
        {"coder": coder, "stage": stage, "kind": kind, "n": n, "example": examples[coder, stage, kind]}
        for (coder, stage, kind), n in sorted(counts.items())
    ]


def _failed_judgements(results: Results) -> dict[str, Any]:
    kinds = results.columns(
        "SELECT scorer, arm, failure AS kind, COUNT(*) AS n FROM judgements WHERE failure IS NOT NULL "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )
    n = results.columns("SELECT COUNT(*) AS judged, COUNT(failure) AS failed FROM judgements")
    rows = zip(kinds["scorer"], kinds["arm"], kinds["kind"], kinds["n"], strict=True)
    return {
        "n_judgements": int(n["judged"][0]),
        "n_failed": int(n["failed"][0]),
        "kinds": [{"scorer": s, "arm": a, "kind": k, "n": int(count)} for s, a, k, count in rows],
    }


def corpus(results: Results) -> list[dict[str, Any]]:
    """The `coders` table: what was cached of each coder."""
    table = results.columns("SELECT * FROM coders ORDER BY coder")
    numbers = [name for name in table if name != "coder"]
    return [
        {"coder": str(coder), "label": coder_label(coder), **{name: int(table[name][i]) for name in numbers}}
        for i, coder in enumerate(table["coder"])
    ]


def firing_rates(results: Results) -> list[dict[str, Any]]:
    """Histograms of log10 firing rate per coder and layer, over the same bins everywhere."""
    table = results.columns(
        "SELECT l.coder, l.layer, l.firing_rate, c.n_tokens FROM latents l JOIN coders c USING (coder)"
    )
    rate = table["firing_rate"].astype(float)
    fired = rate > 0
    lowest = np.floor(np.log10(rate[fired].min())) if fired.any() else -1.0
    edges = np.linspace(lowest, 0, int(-lowest) * _BINS_PER_DECADE + 1)
    histograms = []
    for coder in coder_names(results):
        for layer in np.unique(table["layer"][table["coder"] == coder]):
            mine = (table["coder"] == coder) & (table["layer"] == layer)
            counts, _ = np.histogram(np.log10(rate[mine & fired]), bins=edges)
            histograms.append(
                {
                    "coder": coder,
                    "label": coder_label(coder),
                    "layer": int(layer),
                    "n_latents": int(mine.sum()),
                    "n_unfired": int((mine & ~fired).sum()),
                    "n_tokens": int(table["n_tokens"][mine][0]),
                    "edges": edges.tolist(),
                    "counts": counts.tolist(),
                }
            )
    return histograms
