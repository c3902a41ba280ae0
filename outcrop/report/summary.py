"""All numbers of a report, as one JSON-ready dictionary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from outcrop.config import ReportConfig
from outcrop.metrics.rates import Sampling
from outcrop.report.aggregates import Columns, aggregates
from outcrop.report.judged import Judged, load_judged
from outcrop.report.ledger import corpus, firing_rates, ledger
from outcrop.report.reconstruction import reconstruction_table
from outcrop.report.scorers import scorer_table
from outcrop.report.scores import score
from outcrop.results import Results
from outcrop.types import Reconstruction

VERSION = 1


def summarise(results: Results, reconstructions: Sequence[Reconstruction], config: ReportConfig) -> dict[str, Any]:
    """What is missing is None, never zero. The same tables give the same numbers.

    version          1
    confidence       coverage of every interval
    ledger           n_latents; counts {status: n} that add up to it; coders [coder, label, n_latents,
                     counts, layers [layer, counts], coverage {firing, activation_mass}];
                     failures [coder, stage, kind, n, example]; failed_judgements {n_judgements,
                     n_failed, kinds [scorer, arm, kind, n]}
    corpus           per coder: n_layers, latents_per_layer, window_tokens, n_tokens,
                     n_excluded_tokens, n_off_grid_tokens, n_windows, n_documents
    firing_rates     per coder and layer: n_latents, n_unfired in n_tokens, edges (log10), counts
    reconstruction   per coder: n_tokens, trained_tokens, dead_after_tokens, fvu, l0, layers [layer, fvu,
                     l0, norm_share, dead_share, unfired_share], cross_entropy {n_tokens, clean, coder,
                     zero, mean, delta, kl, recovered, recovered_from_mean}
    scores           n_quantiles; explanations [coder, latent, layer, explainer, source, text,
                     status, firing_rate, context_rate, arms {arm: {metric: {value, low, high, n}}}],
                     n = judgements; aggregates [explainer, source, coder, layer, n_scored, n_unscored,
                     macro {arm: {metric: {value, low, high, n, statistic}}},
                     weighted {weighting: {n_effective, arm: {metric: …}}},
                     unscored {metric: {at_chance, left_out, at_best}}], n = latents;
                     the first aggregate of an explainer is over everything (coder and layer None);
                     scorers [scorer, explainer, source, arm, metric, value, low, high, n], see `report.scorers`

    Arms: explanation, no_explanation (the control), token_baseline. Metrics: see `report.scores`.
    """
    sampling = Sampling(np.random.default_rng(0), config.draws, config.confidence)
    judged = load_judged(results)
    columns = score(judged, sampling)
    summary = {
        "version": VERSION,
        "confidence": config.confidence,
        "ledger": ledger(results),
        "corpus": corpus(results),
        "firing_rates": firing_rates(results),
        "reconstruction": reconstruction_table(reconstructions),
        "scores": {
            "n_quantiles": judged.n_quantiles,
            "explanations": [_explanation(judged, columns, i) for i in range(len(judged.columns["coder"]))],
            "aggregates": aggregates(results, judged, columns, sampling),
            "scorers": scorer_table(results, judged.n_quantiles, sampling),
        },
    }
    plain: dict[str, Any] = _plain(summary)
    return plain


def _explanation(judged: Judged, columns: Columns, row: int) -> dict[str, Any]:
    names = ("coder", "latent", "layer", "explainer", "source", "text", "status", "firing_rate", "context_rate")
    arms = {
        arm: {
            metric: {
                "value": column.estimate.value[row],
                "low": column.estimate.low[row],
                "high": column.estimate.high[row],
                "n": int(column.n[row]),
            }
            for metric, column in metrics.items()
        }
        for arm, metrics in columns.items()
    }
    return {name: judged.columns[name][row] for name in names} | {"arms": arms}


def _plain(value: Any) -> Any:
    """Python's own types, and None for what is not finite."""
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case np.ndarray() | np.generic():
            return _plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value
