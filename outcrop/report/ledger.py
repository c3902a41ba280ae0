"""The ledger of every latent, what was cached, and what the scored latents stand for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy import ndarray

from outcrop.metrics.coverage import coverage, status_counts
from outcrop.report.tables import Tables
from outcrop.schema import STATUSES, TOKEN_BASELINE
from outcrop.types import CoderKey

_BINS_PER_DECADE = 4


def coder_label(name: str) -> str:
    """A coder's key as people read it: `topk at transformer.h.5`."""
    key = CoderKey.parse(name)
    return f"{key.setting} at {place_label(key)}" + (f", seed {key.seed}" if key.seed else "")


def place_label(key: CoderKey) -> str:
    """Where it sits, and what it predicts where that is another place."""
    return f"{key.source} → {key.target}" if key.transcodes else str(key.source)


def ledger(tables: Tables) -> dict[str, Any]:
    """Latents per status, in total, per coder and per layer; failures by stage and kind."""
    latents = tables.latents
    return {
        "n_latents": len(latents["coder"]),
        "counts": status_counts(latents["status"], STATUSES),
        "coders": [_coder_ledger(latents, name) for name in tables.coder_names],
        "failures": _failures(latents),
        "failed_judgements": _failed_judgements(tables),
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


def _failed_judgements(tables: Tables) -> dict[str, Any]:
    counts = [of for of in tables.judgements if of[0] != TOKEN_BASELINE]  # which asks nobody
    asked = Counter[tuple[str, str]]()
    for scorer, arm, _, n in counts:
        asked[scorer, arm] += n
    kinds = [{"scorer": s, "arm": a, "kind": k, "n": n, "n_asked": asked[s, a]} for s, a, k, n in counts if k]
    return {"n_judgements": asked.total(), "n_failed": sum(kind["n"] for kind in kinds), "kinds": kinds}


def corpus(tables: Tables) -> list[dict[str, Any]]:
    """What was cached of each coder."""
    return [{**coder, "label": coder_label(coder["coder"])} for coder in tables.coders]


def firing_rates(tables: Tables) -> list[dict[str, Any]]:
    """Histograms of log10 firing rate per coder and layer, over the same bins everywhere."""
    table, n_tokens = tables.latents, {coder["coder"]: coder["n_tokens"] for coder in tables.coders}
    rate = table["firing_rate"].astype(float)
    fired = rate > 0
    lowest = np.floor(np.log10(rate[fired].min())) if fired.any() else -1.0
    edges = np.linspace(lowest, 0, int(-lowest) * _BINS_PER_DECADE + 1)
    histograms = []
    for coder in tables.coder_names:
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
                    "n_tokens": n_tokens[coder],
                    "edges": edges.tolist(),
                    "counts": counts.tolist(),
                }
            )
    return histograms
