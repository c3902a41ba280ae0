"""What fired in one sparse layer on n tokens, in the form that its selection gives.

    SparseCodes   values, indices [n w]: selections with a k, whose w is small
    DenseCodes    activations [n M]: ReLU and JumpReLU in training, where half of the latents may fire

Everything behind the layer asks both the same three questions.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from outcrop.kernels import sparse_decode

Padded = tuple[Float[Tensor, "n w"], Int[Tensor, "n w"]]


@dataclass(frozen=True)
class SparseCodes:
    """At most w latents per token; a value of zero has not fired."""

    values: Float[Tensor, "n w"]
    indices: Int[Tensor, "n w"]  # in [0, M)

    def decode(self, rows: Float[Tensor, "M d"], stop: int | None = None) -> Float[Tensor, "n d"]:
        """The sum of the rows, weighted by the activations; of the latents below `stop` only."""
        values = self.values if stop is None else self.values * (self.indices < stop)
        return sparse_decode(values, self.indices, rows)

    def padded(self) -> Padded:
        return self.values, self.indices

    def count(self, n_latents: int) -> Int[Tensor, "M"]:
        """On how many tokens each latent fired."""
        return self.indices[self.values != 0].bincount(minlength=n_latents)


@dataclass(frozen=True)
class DenseCodes:
    """The activation of every latent, and the penalty that keeps most of them at zero."""

    activations: Float[Tensor, "n M"]
    penalty: Float[Tensor, ""]  # mean per token: of the L1 norm (ReLU) or of L0 (JumpReLU)

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
