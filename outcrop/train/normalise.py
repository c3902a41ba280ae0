"""Centring and scaling of activations, and which tokens are attention sinks.

Coders are trained on x̃ = (x − μ)/σ with σ² the mean squared deviation per dimension, so that
x̃ has unit variance in the mean. γ = ‖μ‖ / (σ √d) says how far from the origin the activations
lie, in units of their own radius (arXiv 2605.31518 ties the death of TopK latents to it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outcrop.coders.folding import Scaling
from outcrop.config import Normalise
from outcrop.types import ActivationBatch


@dataclass(frozen=True)
class Normaliser:
    """Scalings of source and target, and the norm above which a token is an attention sink."""

    source: Scaling
    target: Scaling
    max_norm: float | None

    def __call__(self, batch: ActivationBatch) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_out"]]:
        """Source and target in normalised space; one tensor where they are one."""
        x = self.source(batch.source)
        return x, x if batch.target is batch.source else self.target(batch.target)


def estimate(
    batch: ActivationBatch, sink_norm_multiple: float | None, normalise: Normalise = "centre-and-scale"
) -> Normaliser:
    """From raw activations; those above the multiple of the median norm are left out, here and ever after."""
    max_norm = None
    if sink_norm_multiple is not None:
        max_norm = sink_norm_multiple * float(batch.source.float().norm(dim=1).median())
        batch = batch.below(max_norm)
    source = _wanted(scaling(batch.source), normalise)
    one = batch.target is batch.source
    return Normaliser(source, source if one else _wanted(scaling(batch.target), normalise), max_norm)


def _wanted(found: Scaling, normalise: Normalise) -> Scaling:
    """Only what shall be done of it."""
    if normalise == "centre-and-scale":
        return found
    return Scaling(torch.zeros_like(found.mean), found.scale if normalise == "scale" else 1.0)


def scaling(x: Float[Tensor, "n d"]) -> Scaling:
    x = x.float()
    mean = x.mean(dim=0)
    return Scaling(mean, float((x - mean).pow(2).mean().sqrt()))


def gamma(x: Float[Tensor, "n d"]) -> float:
    """‖μ‖ / (σ √d)"""
    of = scaling(x)
    return float(of.mean.norm()) / (of.scale * len(of.mean) ** 0.5)


def directions(x: Float[Tensor, "n d"], share: float) -> Float[Tensor, "d r"]:
    """An orthonormal basis of the fewest directions that hold this share of the variance."""
    centred = x.float() - x.float().mean(dim=0)
    variance, basis = torch.linalg.eigh(centred.T @ centred)
    held = variance.clamp_min(0).flip(0).cumsum(0)
    rank = int((held < share * held[-1]).sum()) + 1
    return basis.flip(1)[:, :rank]


def effective_rank(x: Float[Tensor, "n d"]) -> float:
    """exp of the entropy of the covariance's normalised spectrum (Roy and Vetterli 2007); from 1 to d."""
    centred = x.float() - x.float().mean(dim=0)
    spectrum = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    share = spectrum / spectrum.sum()
    return float(torch.special.entr(share).sum().exp())
