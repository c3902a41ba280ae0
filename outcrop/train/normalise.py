"""Centring and scaling of a hookpoint's activations, estimated on the first block.

x̃ = (x − μ) / σ, with μ the mean and σ² the mean squared deviation per dimension, so that a
batch's mean squared error is its FVU. γ = ‖μ‖ / (σ √d) says how far the cloud lies from the
origin, in units of its own radius: what kills latents when inputs are not centred.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Normaliser:
    """μ, σ and the norm above which a token is an attention sink."""

    mean: Float[Tensor, "d"]
    scale: float
    max_norm: float | None

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (x - self.mean) / self.scale

    @property
    def gamma(self) -> float:
        return float(self.mean.norm()) / (self.scale * len(self.mean) ** 0.5)


def estimate(x: Float[Tensor, "n d"], sink_norm_multiple: float | None) -> Normaliser:
    """From raw activations; those above the multiple of the median norm are left out, here and ever after."""
    x = x.float()
    max_norm = None
    if sink_norm_multiple is not None:
        norm = x.norm(dim=1)
        max_norm = sink_norm_multiple * float(norm.median())
        x = x[norm <= max_norm]
    mean = x.mean(dim=0)
    scale = float((x - mean).pow(2).mean().sqrt())
    return Normaliser(mean, scale, max_norm)
