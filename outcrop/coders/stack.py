"""A stack of L sparse layers, each with M latents of which about k are active on a token.

    x₀ = x;   x_l = x − ŷ_{<l} (residual) | x + ŷ_{<l} (resnet) | x (parallel)
    ŷ = b_dec + S x + Σ_l layer_l(x_l),   ŷ_{<l} the sum over the layers before l, with b_dec and S x

S is the optional linear skip of a transcoder. One decoder bias serves the whole stack. A single layer
(L = 1) is the ordinary sparse coder, here without a separate input bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from outcrop.coders.coder import SparseCoder
from outcrop.coders.codes import Codes
from outcrop.coders.layer import SparseLayer
from outcrop.config import Architecture, Read
from outcrop.errors import CoderError, ConfigError
from outcrop.types import SparseLatents


@dataclass(frozen=True)
class LayerOutput:
    """What one layer did with a batch; decoded when that is first asked for."""

    layer: SparseLayer
    read: Float[Tensor, "n d_in"]
    centre: Float[Tensor, "d_in"] | None  # in what was read, but for its gradient
    codes: Codes
    base: Float[Tensor, "n d_out"]  # the reconstruction before any layer
    previous: LayerOutput | None

    @cached_property
    def output(self) -> Float[Tensor, "n d_out"]:
        return self.layer.decode(self.codes)

    @property
    def before(self) -> Float[Tensor, "n d_out"]:
        """The reconstruction of the layers before this one."""
        return self.base if self.previous is None else self.previous.reconstruction

    @cached_property
    def reconstruction(self) -> Float[Tensor, "n d_out"]:
        """That of the stack up to and including this layer."""
        return self.before + self.output


class SparseStack(SparseCoder):
    """L ≥ 1 stacked sparse layers, as an autoencoder or, where d_out is given, a transcoder."""

    layers: Sequence[SparseLayer]

    def __init__(
        self,
        architecture: Architecture,
        d_in: int,
        d_out: int | None = None,
        generator: torch.Generator | None = None,
        read_scale: float = 1.0,
    ) -> None:
        """`d_out` makes a transcoder, of equal width or not; its single layer reads x.

        `read_scale` multiplies ŷ in what a layer reads: σ_x/σ_y, once they are folded into a transcoder.
        Raises ConfigError for a transcoder whose layers cannot read what they are told to.
        """
        super().__init__()
        self.architecture = architecture.alone()
        self.d_in, self.d_out, self.transcodes = d_in, d_out or d_in, d_out is not None
        self.n_layers, self.latents_per_layer = architecture.layers, architecture.latents_per_layer
        self.reads, self.read_scale = self._reads(), read_scale
        if architecture.skip and not self.transcodes:
            raise ConfigError("a skip connection would copy an autoencoder's input; it needs a target of its own")
        made = (SparseLayer(architecture, self.d_in, self.d_out, generator) for _ in range(self.n_layers))
        self.layers = nn.ModuleList(made)  # type: ignore[assignment]
        for i, layer in enumerate(self.layers):
            layer.scale_activations(self._first_scale(i))
        self.decoder_bias = nn.Parameter(torch.zeros(self.d_out))
        self.skip = nn.Parameter(torch.zeros(self.d_out, self.d_in)) if architecture.skip else None

    @staticmethod
    def require_possible(architecture: Architecture, d_in: int, d_out: int | None = None) -> None:
        """ConfigError where there can be no such coder; takes no memory."""
        with torch.device("meta"):
            SparseStack(architecture, d_in, d_out)

    def run(self, x: Float[Tensor, "n d_in"], k: int | None = None) -> Iterator[LayerOutput]:
        """What each layer does, one after the other; `k` in place of the architecture's."""
        base, last = self._base(x), None
        for layer in self.layers:
            read, centre = self._read(x, base, last)
            codes = layer.encode(read, k or self.architecture.k_per_layer, centre)
            last = LayerOutput(layer, read, centre, codes, base, last)
            yield last

    def forward(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        """The reconstruction of x, or of its target."""
        *_, last = self.run(x)
        return last.reconstruction

    def encode(self, x: Float[Tensor, "n d_in"]) -> SparseLatents:
        padded = [output.codes.padded() for output in self.run(x)]
        values = torch.cat([values for values, _ in padded], dim=1)
        indices = torch.cat([i + layer * self.latents_per_layer for layer, (_, i) in enumerate(padded)], dim=1)
        fires = values > 0
        indptr = torch.zeros(len(x) + 1, dtype=torch.long, device=x.device)
        indptr[1:] = fires.sum(dim=1).cumsum(0)
        return SparseLatents(values[fires], indices[fires], indptr, self.n_latents)

    def decode(self, latents: SparseLatents, x: Float[Tensor, "n d_in"] | None = None) -> Float[Tensor, "n d_out"]:
        """The reconstruction from its latents; a coder with a skip needs x, too."""
        if self.skip is not None and x is None:
            raise ConfigError("a coder with a skip connection decodes its latents together with x; give x")
        reconstruction = self.decoder_bias if x is None else self._base(x)
        for i, layer in enumerate(self.layers):
            reconstruction = reconstruction + layer.out(self._rows_of(latents, i, layer))
        return reconstruction

    def decoder_rows(self) -> Float[Tensor, "latents d_out"]:
        return torch.cat([layer.rows() for layer in self.layers])

    def encoder_rows(self) -> Float[Tensor, "latents d_in"]:
        """One direction in the source's space per latent; CoderError where dense layers lie before the latents."""
        if self.architecture.encoder_widths:
            raise CoderError("behind dense layers each sparse layer has a space of its own; compare decoder rows")
        return torch.cat([layer.encoder for layer in self.layers])

    def part_encoders(self, seed: int) -> None:
        """Let no encoder begin as its decoder's transpose."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            layer.part_encoder(generator)

    def project(self, source: Float[Tensor, "d_in r"], target: Float[Tensor, "d_out s"]) -> None:
        """Let every latent lie within two orthonormal bases (Wang et al. 2025, arXiv:2508.16929, where latents start
        within the active subspace). ConfigError where dense layers lie between."""
        if self.architecture.encoder_widths or self.architecture.decoder_widths:
            raise ConfigError("behind dense layers latents have no place in the activations' space to start within")
        for layer in self.layers:
            layer.project(source, target)

    def normalise_decoders(self) -> None:
        for layer in self.layers:
            layer.normalise_decoder()

    def _rows_of(self, latents: SparseLatents, i: int, layer: SparseLayer) -> Float[Tensor, "n g"]:
        """The weighted sum of layer i's decoder rows, token by token."""
        first = i * self.latents_per_layer
        own = (latents.indices >= first) & (latents.indices < first + self.latents_per_layer)
        indices = (latents.indices - first).where(own, 0)
        values = latents.values.where(own, 0)
        return F.embedding_bag(indices, layer.decoder, latents.indptr[:-1], per_sample_weights=values, mode="sum")

    def _base(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        """The reconstruction before any layer."""
        if self.skip is None:
            return self.decoder_bias.expand(len(x), -1)
        return F.linear(x, self.skip, self.decoder_bias)

    def _read(self, x: Tensor, base: Tensor, last: LayerOutput | None) -> tuple[Tensor, Tensor | None]:
        """What a layer reads, and its `LayerOutput.centre`."""
        if self.reads == "parallel":
            return x, None
        scale = self.read_scale if self.reads == "resnet" else -self.read_scale
        if last is None and self.skip is None and not self.architecture.encoder_widths:
            centre = scale * self.decoder_bias
            return x + centre.detach(), centre
        return torch.add(x, base if last is None else last.reconstruction, alpha=scale), None

    def _first_scale(self, i: int) -> float:
        """Of layer i's activations, so that at the start the layers together amount to x, not each of them."""
        match self.reads:
            case "residual":
                return 1.0
            case "resnet":  # it reads x and the i/L of x before it
                return 1 / (self.n_layers + i)
            case "parallel":
                return 1 / self.n_layers

    def _reads(self) -> Read:
        wanted = self.architecture.reads
        if not self.transcodes:
            return wanted
        if self.n_layers == 1:
            return "parallel"
        if wanted == "residual" or (wanted == "resnet" and self.d_in != self.d_out):
            raise ConfigError(
                f"the layers of a transcoder from width {self.d_in} to {self.d_out} cannot read {wanted!r}: what is "
                "left of the source is not what is left of the target. Use --coder.reads parallel"
                + (", or resnet" if self.d_in == self.d_out else "")
            )
        return wanted
