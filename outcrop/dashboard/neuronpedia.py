"""Latents of one coder in the two forms that Neuronpedia takes in.

batch          the features' windows, statistics and tokens, as SAEDashboard's `NeuronpediaDashboardBatch` writes them
explanations   lines of JSON: modelId, layer, index, description, typeName, explanationModelName

What outcrop does not measure (alignment with neurons, correlations, the histogram of logits) is an empty list there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy import ndarray

from outcrop.config import RunConfig
from outcrop.errors import ConfigError
from outcrop.latents.counts import bin_floor
from outcrop.types import CoderKey, Example, Vocabulary

_UNMEASURED = (
    *("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson"),
    *("correlated_features_indices", "correlated_features_l1", "correlated_features_pearson"),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist"),
)


def source(config: RunConfig, key: CoderKey) -> dict[str, Any]:
    """The model, the layer's number and the set of coders, which tells those of one layer apart. ConfigError where the
    hookpoint is in no numbered layer."""
    place = re.search(r"\.(\d+)(.*)", str(key.source))
    if place is None:
        raise ConfigError(f"Neuronpedia orders coders by layer, and {key.source} is in none")
    behind = [place[2].strip(".:"), *([str(key.target)] if key.target != key.source else [])]
    named = [key.setting, *behind, *([f"seed{key.seed}"] if key.seed else [])]
    return {
        "model_id": Path(config.model.name).name,
        "layer": int(place[1]),
        "sae_set": "-".join(filter(None, named)),
        "sae_id_suffix": None,  # the set tells all of them apart
    }


def feature(
    latent: Mapping[str, Any],
    statistics: Mapping[str, Any],
    strongest: Sequence[Example],
    peaks: Mapping[int, ndarray],
    config: RunConfig,
    n_contexts: int,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """From the row of the latent, its row of the statistics (empty where there are none), its strongest windows, and
    the peaks of all its windows by quantile."""
    bins = dict(_bins(statistics.get("histogram") or ()))
    return {
        "feature_index": latent["latent"],
        **{name: [] for name in _UNMEASURED},
        "pos_str": statistics.get("raises") or [],
        "pos_values": statistics.get("raises_logit") or [],
        "neg_str": statistics.get("lowers") or [],
        "neg_values": statistics.get("lowers_logit") or [],
        "frac_nonzero": latent["firing_rate"],
        "freq_hist_data_bar_values": [*bins],
        "freq_hist_data_bar_heights": [*bins.values()],
        "n_prompts_total": n_contexts,
        "n_tokens_in_prompt": config.text.context_tokens,
        "dataset": Path(config.text.path).name,
        "activations": list(_activations(strongest, peaks, vocabulary)),
    }


def explanations(
    about: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], explainer: str, model: str
) -> Iterator[str]:
    """Lines, of rows that have a text; `about` is their `source`."""
    for row in rows:
        line = {
            "modelId": about["model_id"],
            "layer": f"{about['layer']}-{about['sae_set']}",
            "index": str(row["latent"]),
            "description": row["text"],
            "typeName": explainer,
            "explanationModelName": model,
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _bins(counts: Sequence[int]) -> Iterable[tuple[float, int]]:
    """The lower end of each bin that holds a firing, and how many."""
    return ((bin_floor(i), n) for i, n in enumerate(counts) if n)


def _activations(
    windows: Sequence[Example], peaks: Mapping[int, ndarray], vocabulary: Vocabulary
) -> Iterable[dict[str, Any]]:
    """Strongest quantile first; each quantile is one bin, from the weakest to the strongest peak of its windows."""
    n = sum(map(len, peaks.values()))
    for quantile in sorted(peaks, reverse=True):
        of = peaks[quantile]
        for window in (one.window for one in windows if one.quantile == quantile):
            yield {
                "bin_min": float(of.min()),
                "bin_max": float(of.max()),
                "bin_contains": len(of) / n,
                "tokens": vocabulary.strings(window.tokens),
                "values": [float(value) for value in window.activations],
                "qualifying_token_index": int(window.activations.argmax()),
            }
