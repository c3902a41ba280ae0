"""What fired in one sparse layer on n tokens, in the form that its selection gives.

    SparseCodes   values, indices [n w], with a small w
    JumpCodes     the same of JumpReLU in training, with the latents just below their thresholds
    DenseCodes    activations [n M]: ReLU in training, as long as many latents fire

Everything behind the layer asks them all the same three questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from outcrop.kernels import sparse_decode

Padded = tuple[Float[Tensor, "n w"], Int[Tensor, "n w"]]


@dataclass(frozen=True)
class SparseCodes:
    """At most w latents per token; a value of zero has not fired."""

    values: Float[Tensor, "n w"]
    indices: Int[Tensor, "n w"]  # in [0, M)
    penalty: Float[Tensor, ""] | None = None  # what keeps most latents at zero, where no k does: mean of a token
    through_zeros: ClassVar[bool] = False  # whether a value of zero has a gradient

    def decode(self, rows: Float[Tensor, "M d"], stop: int | None = None) -> Float[Tensor, "n d"]:
        """The sum of the rows, weighted by the activations; of the latents below `stop` only."""
        values = self.values if stop is None else self.values * (self.indices < stop)
        return sparse_decode(values, self.indices, rows, through_zeros=self.through_zeros)

    def padded(self) -> Padded:
        return self.values, self.indices

    def count(self, n_latents: int) -> Int[Tensor, "M"]:
        """On how many tokens each latent fired."""
        return self.indices[self.values != 0].bincount(minlength=n_latents)


@dataclass(frozen=True)
class JumpCodes(SparseCodes):
    """Latents over their thresholds, and at zero those so near that they move theirs."""

    through_zeros: ClassVar[bool] = True


@dataclass(frozen=True)
class DenseCodes:
    """The activation of every latent."""

    activations: Float[Tensor, "n M"]
    penalty: Float[Tensor, ""]

    def decode(self, rows: Float[Tensor, "M d"], stop: int | None = None) -> Float[Tensor, "n d"]:
        return self.activations[:, :stop] @ rows[:stop]

    def padded(self) -> Padded:
        fires = self.activations > 0
        width = int(fires.sum(dim=1).max()) if len(fires) else 0
        values, indices = self.activations.topk(width, dim=1)
        return values, indices

    def count(self, n_latents: int) -> Int[Tensor, "M"]:
        return (self.activations > 0).sum(dim=0)


Codes = SparseCodes | DenseCodes
