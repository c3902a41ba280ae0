"""The one interface of every sparse coder, whatever its architecture.

Everything downstream of training uses `encode` and `decode` alone and sees one dictionary
of L·M latents; the latent with index i belongs to layer i // M.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from outcrop.types import SparseLatents


class SparseCoder(nn.Module, ABC):
    """n tokens of width d_in → L·M sparse latents → n tokens of width d_out."""

    d_in: int
    d_out: int
    n_layers: int
    latents_per_layer: int

    @property
    def n_latents(self) -> int:
        return self.n_layers * self.latents_per_layer

    @abstractmethod
    def encode(self, x: Float[Tensor, "n d_in"]) -> SparseLatents:
        """The latents of all layers, in the order layer, then index."""

    @abstractmethod
    def decode(self, latents: SparseLatents) -> Float[Tensor, "n d_out"]:
        """The reconstruction, decoder bias included."""

    @abstractmethod
    def decoder_rows(self) -> Float[Tensor, "latents d_out"]:
        """One direction in the target's space per latent."""
