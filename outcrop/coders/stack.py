"""A stack of L sparse layers, each with M latents of which k are active on a token.

    x₀ = x;   x_l = x − ŷ_{<l} (residual) | x + ŷ_{<l} (resnet) | x (parallel)
    codes_l = TopK_k(ReLU(W_enc,l x_l + b_enc,l))
    ŷ = b_dec + Σ_l W_dec,lᵀ codes_l,   ŷ_{<l} the sum over the layers before l, with b_dec

One decoder bias serves the whole stack. A single layer (L = 1) is the ordinary TopK sparse
coder (Gao et al. 2024, arXiv:2406.04093), here without a separate input bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from outcrop.coders.coder import SparseCoder
from outcrop.config import Read
from outcrop.kernels import sparse_decode, topk_encode
from outcrop.types import SparseLatents


@dataclass(frozen=True)
class LayerOutput:
    """What one layer did with a batch."""

    values: Float[Tensor, "n k"]  # zeros have not fired
    indices: Int[Tensor, "n k"]  # in [0, M)
    output: Float[Tensor, "n d_out"]


class SparseLayer(nn.Module):
    """One dictionary: encoder rows and bias, unit-norm decoder rows."""

    def __init__(self, width: int, n_latents: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        # The encoder starts as the decoder's transpose, which keeps latents alive (Gao et al. 2024, app. A.1).
        rows = F.normalize(torch.randn(n_latents, width, generator=generator), dim=1)
        self.encoder = nn.Parameter(rows.clone())  # [M d]
        self.encoder_bias = nn.Parameter(torch.zeros(n_latents))  # [M]
        self.decoder = nn.Parameter(rows)  # [M d]

    def forward(self, x: Float[Tensor, "n d"], k: int) -> LayerOutput:
        values, indices = topk_encode(x, self.encoder, self.encoder_bias, k)
        return LayerOutput(values, indices, sparse_decode(values, indices, self.decoder))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring every decoder row back to unit norm, after a step has moved it."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.decoder.dtype).tiny))


class SparseStack(SparseCoder):
    """An autoencoder of L ≥ 1 stacked sparse layers."""

    layers: Sequence[SparseLayer]

    def __init__(
        self, width: int, n_latents: int, k: int, layers: int, reads: Read, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.d_in = self.d_out = width
        self.n_layers, self.latents_per_layer = layers, n_latents
        self.k, self.reads = k, reads
        made = (SparseLayer(width, n_latents, generator) for _ in range(layers))
        self.layers = nn.ModuleList(made)  # type: ignore[assignment]
        self.decoder_bias = nn.Parameter(torch.zeros(width))

    def run(self, x: Float[Tensor, "n d"]) -> Iterator[LayerOutput]:
        """The layers' outputs, one after the other; ŷ is the decoder bias plus their sum."""
        reconstruction = self.decoder_bias.expand_as(x)
        for layer in self.layers:
            output: LayerOutput = layer(self._read(x, reconstruction), self.k)
            reconstruction = reconstruction + output.output
            yield output

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The reconstruction of x."""
        reconstruction = self.decoder_bias.expand_as(x)
        for layer in self.run(x):
            reconstruction = reconstruction + layer.output
        return reconstruction

    def encode(self, x: Float[Tensor, "n d"]) -> SparseLatents:
        outputs = list(self.run(x))
        values = torch.cat([output.values for output in outputs], dim=1)
        indices = torch.cat([o.indices + layer * self.latents_per_layer for layer, o in enumerate(outputs)], dim=1)
        fires = values > 0
        indptr = torch.zeros(len(x) + 1, dtype=torch.long, device=x.device)
        indptr[1:] = fires.sum(dim=1).cumsum(0)
        return SparseLatents(values[fires], indices[fires], indptr, self.n_latents)

    def decode(self, latents: SparseLatents) -> Float[Tensor, "n d"]:
        rows = F.embedding_bag(
            latents.indices, self.decoder_rows(), latents.indptr[:-1], per_sample_weights=latents.values, mode="sum"
        )
        return rows + self.decoder_bias

    def decoder_rows(self) -> Float[Tensor, "latents d"]:
        return torch.cat([layer.decoder for layer in self.layers])

    def normalise_decoders(self) -> None:
        for layer in self.layers:
            layer.normalise_decoder()

    def _read(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        match self.reads:
            case "residual":
                return x - reconstruction
            case "resnet":
                return x + reconstruction
            case "parallel":
                return x
