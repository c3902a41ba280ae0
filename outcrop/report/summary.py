"""All numbers of a report, as one JSON-ready dictionary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from outcrop.config import ReportConfig, Where
from outcrop.report.aggregates import aggregates
from outcrop.report.bands import band_summary
from outcrop.report.ledger import corpus, firing_rates, ledger
from outcrop.report.reconstruction import reconstruction_table
from outcrop.report.scorers import scorer_table
from outcrop.report.scores import Scores
from outcrop.report.tables import Tables
from outcrop.types import Reconstruction

VERSION = 4


def summarise(
    tables: Tables,
    reconstructions: Sequence[Reconstruction],
    config: ReportConfig,
    where: Where | None = None,
) -> dict[str, Any]:
    """What is missing is None, never zero. The same tables give the same numbers. `where` leaves out latents; the
    summary says so, and what it says of judgements that failed and of calibration is still about all.

    docs/metrics.md describes the fields. Arms: explanation, no_explanation (the control), token_baseline.
    """
    if where is not None:
        tables = tables.where(where)
        reconstructions = [r for r in reconstructions if str(r.coder) in tables.coder_names]
    confidence = config.confidence
    summary = {
        "version": VERSION,
        "confidence": confidence,
        "where": str(where) if where is not None else None,
        "ledger": ledger(tables),
        "corpus": corpus(tables),
        "firing_rates": firing_rates(tables),
        "reconstruction": reconstruction_table(reconstructions),
        "scores": {
            "n_quantiles": tables.scores.n_quantiles,
            "within_documents": tables.scores.within_documents,
            "aggregates": aggregates(tables, confidence),
            "scorers": scorer_table(tables.scorers, confidence),
            "bands": band_summary(tables.bands, confidence),
            "calibration": tables.calibration,
        },
    }
    told: dict[str, Any] = plain(summary)
    return told


def scores_of(scores: Scores, row: int) -> dict[str, dict[str, dict[str, Any]]]:
    """arm → metric → {value, low, high, n} of one explanation; n counts judgements."""
    told: dict[str, dict[str, dict[str, Any]]] = plain(
        {
            arm: {
                metric: {**column.estimate[row].numbers, "n": int(column.n[row])} for metric, column in metrics.items()
            }
            for arm, metrics in scores.arms.items()
        }
    )
    return told


def plain(value: Any) -> Any:
    """Python's own types, and None for what is not finite."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case np.ndarray() | np.generic():
            return plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value
