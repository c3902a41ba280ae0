"""Which latents are explained: given ones, any, or a spread over layers, prefixes and log firing rate; by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from outcrop.config import ExamplesConfig, Flag, SelectConfig
from outcrop.config.strict import require
from outcrop.latents.sampling import share_out
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


def flagged(statistics: LatentStatistics, flags: Sequence[Flag]) -> Bool[ndarray, "latents"]:
    """Which latents have one of the flags."""
    of = {"dense": statistics.dense, "positional": statistics.positional, "pure_token": statistics.triggers.pure}
    return np.any([of[flag] for flag in flags], axis=0) if flags else np.zeros(len(statistics.n_fired), dtype=bool)


def select_latents(
    statistics: LatentStatistics,
    left_out: Bool[ndarray, "latents"],
    layer: Int64[ndarray, "latents"],
    prefix: Int64[ndarray, "latents"],
    config: SelectConfig,
    seed: int,
) -> Selection:
    """Those that are wanted, of the latents that fired and are not left out; fewer where there are not so many.

    The layers share `n_latents` equally, within a layer the matryoshka prefixes do, and within these the bins of log
    firing rate; who gets what does not divide is drawn. ConfigError for a latent that does not exist.
    """
    candidates = (statistics.n_fired > 0) & ~left_out & ~flagged(statistics, config.without)
    if config.only:
        candidates &= flagged(statistics, config.only)
    if config.latents:
        given = np.unique(config.latents)
        require(
            int(given[-1]) < len(candidates),
            f"select.latents names {given[-1]}; the coder has {len(candidates):,} latents",
        )
        chosen = given[candidates[given]]
        return Selection(chosen, np.ones(len(chosen)))
    generator = np.random.default_rng([seed, 1])
    if config.how == "random":
        return _sorted([_drawn(np.flatnonzero(candidates), config.n_latents, generator)])
    return _sorted(
        [
            drawn
            for of_layer, n_of_layer in _shared(np.flatnonzero(candidates), layer, config.n_latents, generator)
            for members, quota in _shared(of_layer, prefix, n_of_layer, generator)
            for drawn in _spread(members, statistics.firing_rate, quota, config.n_rate_bins, generator)
        ]
    )


def _shared(
    members: Int64[ndarray, "n"], group: Int64[ndarray, "latents"], total: int, generator: np.random.Generator
) -> list[tuple[Int64[ndarray, "_"], int]]:
    """The members of each group, and how many of the total it gets."""
    groups = generator.permutation(np.unique(group[members]))
    parts = [members[group[members] == one] for one in groups]
    return list(zip(parts, share_out(total, [len(part) for part in parts]), strict=True))


_Drawn = tuple[Int64[ndarray, "chosen"], float]  # the chosen latents, and the chance that each had


def _spread(
    group: Int64[ndarray, "n"],
    firing_rate: Float64[ndarray, "latents"],
    quota: int,
    n_bins: int,
    generator: np.random.Generator,
) -> list[_Drawn]:
    """From each bin of log firing rate."""
    if len(group) == 0 or quota == 0:
        return []
    n_bins = min(n_bins, quota)  # so that the rare bins do not take what the frequent ones are due
    log_rate = np.log(firing_rate[group])
    edges = np.linspace(log_rate.min(), log_rate.max(), n_bins + 1)
    bin_of = np.clip(np.searchsorted(edges, log_rate, side="right") - 1, 0, n_bins - 1)
    parts = [group[bin_of == i] for i in range(n_bins)]
    quotas = share_out(quota, [len(part) for part in parts])
    return [_drawn(part, n, generator) for part, n in zip(parts, quotas, strict=True) if n]


def _drawn(latents: Int64[ndarray, "n"], wanted: int, generator: np.random.Generator) -> _Drawn:
    n = min(wanted, len(latents))
    return generator.choice(latents, size=n, replace=False), n / max(1, len(latents))


def _sorted(drawn: Sequence[tuple[ndarray, float]]) -> Selection:
    latents = np.concatenate([np.empty(0, np.int64), *(chosen for chosen, _ in drawn)])
    probability = np.concatenate([np.empty(0), *(np.full(len(chosen), p) for chosen, p in drawn)])
    order = np.argsort(latents)
    return Selection(latents[order], probability[order])
