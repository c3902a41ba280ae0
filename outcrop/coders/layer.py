"""One sparse layer: dense layers on the way in, a dictionary of M latents, dense layers on the way out.

    h  = normalise(ReLU(V x + a)) …                 encoder_widths; x itself without them
    codes = selection(W_enc h + b_enc)
    o  = U ReLU(Σ_j codes_j W_dec,j + c) …          decoder_widths; Σ_j codes_j W_dec,j itself without them

Shapes: x [n d_in], W_enc [M h], W_dec [M g], o [n d_out], with h and g the last encoder and first decoder width.
Only the encoder's hidden vectors are normalised, to a root mean square of 1: on the way out, the size of the
activations is what is to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from outcrop import kernels
from outcrop.coders.codes import Codes, SparseCodes
from outcrop.coders.selection import BatchTopK, JumpReLU, make_selection
from outcrop.config import Architecture

_MEAN_DECAY = 0.99  # of the mean activation, per batch in which a latent fires


class SparseLayer(nn.Module):
    """One dictionary: encoder rows and bias, unit-norm decoder rows, and the dense layers around."""

    mean_activation: Tensor
    dense_in: Sequence[nn.Linear]
    dense_out: Sequence[nn.Linear]

    def __init__(
        self, architecture: Architecture, d_in: int, d_out: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        before = [d_in, *architecture.encoder_widths]
        after = [*architecture.decoder_widths, d_out]
        n_latents = architecture.latents_per_layer
        rows = _unit_rows(n_latents, after[0], generator)
        # An encoder that starts as the decoder's transpose keeps latents alive (Gao et al. 2024, app. A.1).
        encoder = rows.clone() if before[-1] == after[0] else _unit_rows(n_latents, before[-1], generator)
        self.encoder = nn.Parameter(encoder)  # [M h]
        self.encoder_bias = nn.Parameter(torch.zeros(n_latents))  # [M]
        self.decoder = nn.Parameter(rows)  # [M g]
        self.selection = make_selection(architecture.selection, n_latents, architecture.k_per_layer)
        dense_in = [_linear(a, b, generator) for a, b in pairwise(before)]
        self.hidden_bias = nn.Parameter(torch.zeros(after[0])) if architecture.decoder_widths else None
        dense_out = [_linear(a, b, generator) for a, b in pairwise(after[:-1])]
        if architecture.decoder_widths:  # The last has no bias, since the stack has one, and starts by saying little.
            dense_out.append(_linear(after[-2], d_out, generator, bias=False, gain=0.1))
        self.dense_in, self.dense_out = nn.ModuleList(dense_in), nn.ModuleList(dense_out)  # type: ignore[assignment]
        if architecture.decoder_widths:
            self.register_buffer("mean_activation", torch.zeros(n_latents))

    @property
    def n_latents(self) -> int:
        return len(self.encoder)

    def encode(self, x: Float[Tensor, "n d_in"], k: int, centre: Float[Tensor, "d_in"] | None = None) -> Codes:
        """`centre`, if any, is in x already, but its gradient is not: see `kernels.centred_bias`."""
        codes: Codes = self.selection(self._hidden(x), self.encoder, self._bias(centre), k)
        if self.training and self.hidden_bias is not None:
            self._note_means(codes)
        return codes

    def decode(self, codes: Codes, stop: int | None = None) -> Float[Tensor, "n d_out"]:
        """This layer's part of the reconstruction; of the latents below `stop` only."""
        return self.out(codes.decode(self.decoder, stop))

    def widest(self, x: Float[Tensor, "n d_in"], k: int, centre: Float[Tensor, "d_in"] | None = None) -> SparseCodes:
        """The k largest of each token, whatever the selection: for Multi-TopK."""
        select = partial(kernels.topk, k=k)
        return SparseCodes(*kernels.encode(self._hidden(x), self.encoder, self._bias(centre), select))

    def revived(self, x: Float[Tensor, "n d_in"], dead: Int[Tensor, "dead"], k: int) -> Float[Tensor, "n d_out"]:
        """What the k largest of the dead latents would add: for AuxK.

        Without the ReLU, because a latent that is dead has negative pre-activations, and would learn nothing.
        """
        encoder, bias, decoder = self.encoder[dead], self.encoder_bias[dead], self.decoder[dead]
        if k == len(dead):
            return self.out(F.linear(self._hidden(x), encoder, bias) @ decoder)
        values, indices = kernels.encode(self._hidden(x), encoder, bias, partial(kernels.topk, k=k, signed=True))
        return self.out(SparseCodes(values, indices).decode(decoder))

    @torch.no_grad()
    def rows(self) -> Float[Tensor, "M d_out"]:
        """The direction of each latent in the target's space: its decoder row, or with dense layers behind
        it the change of the output when it alone fires at its mean."""
        if self.hidden_bias is None:
            return self.decoder
        alone = self.decoder * self.mean_activation[:, None]
        return self.out(alone) - self.out(torch.zeros_like(alone[:1]))

    @torch.no_grad()
    def scale_activations(self, factor: float) -> None:
        """Let the same latents fire, with activations `factor` times as large."""
        self.encoder.mul_(factor)
        self.encoder_bias.mul_(factor)
        if isinstance(self.selection, BatchTopK | JumpReLU):
            self.selection.rescale(factor)

    def mean_preactivations(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "M"]:
        """Of each latent over the batch, without a product for each token."""
        return self.encoder @ self._hidden(x).mean(dim=0) + self.encoder_bias

    @torch.no_grad()
    def part_encoder(self, generator: torch.Generator) -> None:
        """Give the encoder rows that have nothing to do with the decoder's, as long as they were."""
        rows = _unit_rows(len(self.encoder), self.encoder.shape[1], generator).to(self.encoder.device)
        self.encoder.copy_(rows * self.encoder.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def project(self, source: Float[Tensor, "d_in r"], target: Float[Tensor, "d_out s"]) -> None:
        """Move encoder and decoder rows into the spans of two orthonormal bases, as long as they were."""
        for rows, basis in ((self.encoder, source), (self.decoder, target)):
            norms = rows.norm(dim=1, keepdim=True)
            rows.copy_(F.normalize(rows @ basis @ basis.T, dim=1) * norms)

    @torch.no_grad()
    def absorb_norms(self) -> None:
        """Decoder rows of unit norm, activations that have taken over their size: the same coder, but for the
        latents that TopK and BatchTopK choose, which compare activations."""
        norms = self.decoder.norm(dim=1)
        self.encoder.mul_(norms[:, None])
        self.encoder_bias.mul_(norms)
        if isinstance(self.selection, JumpReLU):
            self.selection.rescale(norms)
        self.normalise_decoder()

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring every decoder row back to unit norm, after a step has moved it."""
        kernels.unit_rows_(self.decoder.data)

    def _bias(self, centre: Float[Tensor, "d_in"] | None) -> Float[Tensor, "M"]:
        return self.encoder_bias if centre is None else kernels.centred_bias(self.encoder_bias, centre, self.encoder)

    def _hidden(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n h"]:
        for linear in self.dense_in:
            hidden = torch.relu(linear(x))
            x = F.rms_norm(hidden, hidden.shape[-1:])
        return x

    def out(self, x: Float[Tensor, "n g"]) -> Float[Tensor, "n d_out"]:
        if self.hidden_bias is not None:
            x = x + self.hidden_bias
        for linear in self.dense_out:
            x = linear(torch.relu(x))
        return x

    @torch.no_grad()
    def _note_means(self, codes: Codes) -> None:
        values, indices = codes.padded()
        flat, latents = values.flatten(), indices.flatten()
        count = torch.zeros_like(self.mean_activation).index_add_(0, latents, (flat > 0).to(flat.dtype))
        mean = torch.zeros_like(self.mean_activation).index_add_(0, latents, flat) / count.clamp_min(1)
        moved = torch.where(self.mean_activation > 0, self.mean_activation.lerp(mean, 1 - _MEAN_DECAY), mean)
        self.mean_activation.copy_(torch.where(count > 0, moved, self.mean_activation))


def _unit_rows(n: int, width: int, generator: torch.Generator | None) -> Float[Tensor, "n width"]:
    return F.normalize(torch.randn(n, width, generator=generator), dim=1)


def _linear(
    d_in: int, d_out: int, generator: torch.Generator | None, *, bias: bool = True, gain: float = 2**0.5
) -> nn.Linear:
    """Kaiming's normal initialisation, by default for a ReLU, from the generator."""
    linear = nn.Linear(d_in, d_out, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(d_out, d_in, generator=generator) * gain / d_in**0.5)
        if bias:
            linear.bias.zero_()
    return linear
