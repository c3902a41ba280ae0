"""The cache of latents, and the examples that are drawn from it."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class SelectConfig(Strict):
    """Which latents are explained."""

    n_latents: int = 24
    """How many of each coder, spread over its layers and over bins of log firing rate."""
    n_rate_bins: int = 8
    """Bins of log firing rate within a layer."""

    def __post_init__(self) -> None:
        require(self.n_latents >= 1, f"select.n-latents is {self.n_latents}; it must be at least 1")
        require(self.n_rate_bins >= 1, f"select.n-rate-bins is {self.n_rate_bins}; it must be at least 1")


@dataclass(frozen=True)
class ExamplesConfig(Strict):
    """The windows that explainers and judges see of each latent."""

    n_quantiles: int = 5
    """Q: strata of the activating windows, by peak."""
    explain_activating: int = 10
    """Activating windows for the explainer, spread evenly over the quantiles."""
    explain_random: int = 3
    """Random non-activating windows for the explainer."""
    explain_same_token: int = 3
    """Non-activating windows with a trigger token for the explainer."""
    score_activating: int = 20
    """Activating windows for the judge, spread evenly over the quantiles."""
    score_random: int = 20
    """Random non-activating windows for the judge."""
    score_same_token: int = 10
    """Non-activating windows with a trigger token for the judge."""

    def __post_init__(self) -> None:
        require(self.n_quantiles >= 1, f"examples.n-quantiles is {self.n_quantiles}; it must be at least 1")
        for name in ("explain_activating", "score_activating"):
            value = getattr(self, name)
            require(
                value >= self.n_quantiles and value % self.n_quantiles == 0,
                f"examples.{name.replace('_', '-')} is {value}; it must be a positive multiple of "
                f"examples.n-quantiles, which is {self.n_quantiles}",
            )
        for name in ("explain_random", "explain_same_token", "score_random", "score_same_token"):
            value = getattr(self, name)
            require(value >= 0, f"examples.{name.replace('_', '-')} is {value}; it must not be negative")
