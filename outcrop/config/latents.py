"""The cache of latents, and the examples that are drawn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from outcrop.config.strict import Strict, require


@dataclass(frozen=True)
class CacheConfig(Strict):
    """The cache of latents, over documents that were not trained on."""

    tokens: int = 10_000_000
    """Tokens to cache."""
    shard_tokens: int = 1_000_000
    """Tokens per shard; a killed run loses at most one shard's work."""
    window_tokens: int = 32
    """Length w of the windows of the fixed grid, in eligible tokens."""

    def __post_init__(self) -> None:
        for name in ("tokens", "shard_tokens", "window_tokens"):
            value = getattr(self, name)
            require(value >= 1, f"cache.{name.replace('_', '-')} is {value}; it must be at least 1")


Flag = Literal["dense", "positional", "pure_token"]
Statistic = Literal[
    "latent",
    "layer",
    "n_fired",
    "firing_rate",
    "n_windows",
    "context_rate",
    "mean_activation",
    "max_activation",
    "context_dependence",
    "context_dependence_coverage",
    "dense",
    "positional",
    "pure_token",
    "rare",
    "selected",
    "triggers_cover",
]
"""A number of every latent, by which the table of all statistics can be sorted."""


@dataclass(frozen=True)
class SelectConfig(Strict):
    """Which latents are explained."""

    n_latents: int = 24
    """How many of each coder."""
    latents: tuple[int, ...] = ()
    """These and no others, numbered over all layers; those that are rare or fire nearly everywhere are left out."""
    how: Literal["spread", "random"] = "spread"
    """Spread evenly over the layers, the matryoshka prefixes and the bins of log firing rate, or at random."""
    n_rate_bins: int = 8
    """Bins of log firing rate within a layer and prefix."""
    only: tuple[Flag, ...] = ()
    """Only latents that have one of these flags: dense, positional, pure_token."""
    without: tuple[Flag, ...] = ()
    """Only latents that have none of these flags."""

    def __post_init__(self) -> None:
        require(self.n_latents >= 1, f"select.n-latents is {self.n_latents}; it must be at least 1")
        require(self.n_rate_bins >= 1, f"select.n-rate-bins is {self.n_rate_bins}; it must be at least 1")
        require(all(latent >= 0 for latent in self.latents), f"select.latents is {self.latents}; latents count from 0")


NeighbourMeasure = Literal["jaccard", "npmi", "decoder", "encoder"]
_Stratum = Literal["same_token", "neighbour", "semantic", "random"]  # `outcrop.types.Stratum`
Sampler = Literal["quantiles", "top", "random", "mix", "importance"]


@dataclass(frozen=True)
class ExamplesConfig(Strict):
    """The windows that explainers and judges see of each latent."""

    n_quantiles: int = 5
    """Q: strata of the activating windows, by peak."""
    explain_activating: int = 10
    """Activating windows for the explainer."""
    explain_sampler: Sampler = "quantiles"
    """Which: as many from each quantile, the strongest (top), any (random), half of them the strongest and the others
    from the quantiles (mix), or with a chance that grows with the peak (importance)."""
    explain_windows: Literal["grid", "centred"] = "grid"
    """Activating windows of the grid, or with the peak in a fixed place."""
    peak_offset: int = 24
    """That place, counted from the start of a centred window."""
    explain_random: int = 2
    """Random non-activating windows for the explainer."""
    explain_same_token: int = 2
    """Non-activating windows with a trigger token for the explainer."""
    explain_neighbour: int = 2
    """Non-activating windows in which a neighbouring latent fires, for the explainer."""
    explain_semantic: int = 2
    """Non-activating windows like activating ones in meaning, for the explainer; they need an embedder."""
    score_activating: int = 20
    """Activating windows for the judge, spread evenly over the quantiles."""
    score_random: int = 20
    """Random non-activating windows for the judge."""
    score_same_token: int = 10
    """Non-activating windows with a trigger token for the judge."""
    score_neighbour: int = 10
    """Non-activating windows in which a neighbouring latent fires, for the judge."""
    score_semantic: int = 10
    """Non-activating windows like activating ones in meaning, for the judge; they need an embedder."""
    neighbour_measure: NeighbourMeasure = "jaccard"
    """What makes latents neighbours: firing on the same tokens (jaccard, npmi), or the cosine of their rows."""
    n_neighbours: int = 10
    """Nearest latents that count as neighbours."""
    embedder: str | None = None
    """A sentence-transformers model (directory or hub name) that finds windows alike in meaning; without one there are
    no semantic non-activating windows."""

    def __post_init__(self) -> None:
        require(self.n_quantiles >= 1, f"examples.n-quantiles is {self.n_quantiles}; it must be at least 1")
        for name in ("explain_activating", "score_activating"):
            value = getattr(self, name)
            require(
                value >= self.n_quantiles and value % self.n_quantiles == 0,
                f"examples.{name.replace('_', '-')} is {value}; it must be a positive multiple of "
                f"examples.n-quantiles, which is {self.n_quantiles}",
            )
        for split in ("explain", "score"):
            for stratum, value in self.wanted(split).items():
                name = f"examples.{split}-{stratum.replace('_', '-')}"
                require(value >= 0, f"{name} is {value}; it must not be negative")
        require(self.n_neighbours >= 1, f"examples.n-neighbours is {self.n_neighbours}; it must be at least 1")
        require(self.peak_offset >= 0, f"examples.peak-offset is {self.peak_offset}; it must not be negative")

    def wanted(self, split: Literal["explain", "score"]) -> dict[_Stratum, int]:
        """Non-activating windows by stratum."""
        return {stratum: getattr(self, f"{split}_{stratum}") for stratum in get_args(_Stratum)}

    def wants(self, stratum: _Stratum) -> bool:
        """Whether a stratum is to be there at all."""
        if stratum == "semantic" and self.embedder is None:
            return False
        return self.wanted("explain")[stratum] + self.wanted("score")[stratum] > 0
