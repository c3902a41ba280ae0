"""Which latents are explained: a spread over the layers and over the log firing rate, by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from outcrop.config import ExamplesConfig, SelectConfig
from outcrop.latents.statistics import LatentStatistics


@dataclass(frozen=True)
class Selection:
    """The chosen latents, ascending, and the probability with which each was drawn from its bin."""

    latents: Int64[ndarray, "chosen"]
    probability: Float64[ndarray, "chosen"]


def is_rare(statistics: LatentStatistics, config: ExamplesConfig) -> Bool[ndarray, "latents"]:
    """Fired, but in too few windows or documents: each half needs as many windows as it shows activating ones,
    and as many documents as there are quantiles."""
    enough = (
        (statistics.n_explain_windows >= config.explain_activating)
        & (statistics.n_score_windows >= config.score_activating)
        & (statistics.n_explain_documents >= config.n_quantiles)
        & (statistics.n_score_documents >= config.n_quantiles)
    )
    return (statistics.n_fired > 0) & ~enough


def is_everywhere(
    statistics: LatentStatistics, n_explain: int, n_score: int, config: ExamplesConfig
) -> Bool[ndarray, "latents"]:
    """Fires in so many of the windows of each half that too few are left in which it does not."""
    few_to_explain = n_explain - statistics.n_explain_windows < config.explain_random
    return few_to_explain | (n_score - statistics.n_score_windows < config.score_random)


def select_latents(
    statistics: LatentStatistics, left_out: Bool[ndarray, "latents"], n_layers: int, config: SelectConfig, seed: int
) -> Selection:
    """`n_latents` of those that fired and are not left out; fewer where there are not so many.

    The layers share them equally; within a layer, the bins of log firing rate do.
    """
    generator = np.random.default_rng([seed, 1])
    candidates = np.flatnonzero((statistics.n_fired > 0) & ~left_out)
    layer = candidates // (len(statistics.n_fired) // n_layers)
    groups = [candidates[layer == i] for i in range(n_layers)]
    bins = [
        part
        for group, quota in zip(groups, _share_out(config.n_latents, [len(g) for g in groups]), strict=True)
        for part in _draw(group, statistics.firing_rate, quota, config.n_rate_bins, generator)
    ]
    latents = np.concatenate([chosen for chosen, _ in bins]) if bins else np.empty(0, np.int64)
    probability = np.concatenate([np.full(len(c), p) for c, p in bins]) if bins else np.empty(0)
    order = np.argsort(latents)
    return Selection(latents[order].astype(np.int64), probability[order])


def _draw(
    group: Int64[ndarray, "n"],
    firing_rate: Float64[ndarray, "latents"],
    quota: int,
    n_bins: int,
    generator: np.random.Generator,
) -> list[tuple[Int64[ndarray, "chosen"], float]]:
    """From each bin of log firing rate: the chosen latents, and the chance that each had."""
    if len(group) == 0 or quota == 0:
        return []
    n_bins = min(n_bins, quota)  # so that the rare bins do not take what the frequent ones are due
    log_rate = np.log(firing_rate[group])
    edges = np.linspace(log_rate.min(), log_rate.max(), n_bins + 1)
    bin_of = np.clip(np.searchsorted(edges, log_rate, side="right") - 1, 0, n_bins - 1)
    parts = [group[bin_of == i] for i in range(n_bins)]
    quotas = _share_out(quota, [len(part) for part in parts])
    return [
        (generator.choice(part, size=n, replace=False), n / len(part))
        for part, n in zip(parts, quotas, strict=True)
        if n
    ]


def _share_out(total: int, available: list[int]) -> list[int]:
    """Deal `total` one by one to the groups in turn, to none more than it has."""
    dealt = [0] * len(available)
    while total and any(have > got for have, got in zip(available, dealt, strict=True)):
        for i, have in enumerate(available):
            if total and dealt[i] < have:
                dealt[i] += 1
                total -= 1
    return dealt
