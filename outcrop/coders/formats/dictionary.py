"""What the coders of other libraries have in common: one sparse layer without dense layers.

    pre = W_enc (x − b_dec) + b_enc   an autoencoder that subtracts its decoder bias, or W_enc x + b_enc
    ŷ = W_decᵀ selection(pre) + b_dec (+ S x)

W_enc [M d_in], W_dec [M d_out], S [d_out d_in]. Decoder rows keep the norm that they have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from outcrop.coders.selection import BatchTopK, JumpReLU
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture, Selection
from outcrop.errors import CoderError

Threshold = Float[Tensor, ""] | Float[Tensor, "M"]


@dataclass(frozen=True)
class Dictionary:
    """The weights of one sparse layer, and how they are to be used."""

    encoder: Float[Tensor, "M d_in"]
    encoder_bias: Float[Tensor, "M"]
    decoder: Float[Tensor, "M d_out"]
    decoder_bias: Float[Tensor, "d_out"]
    selection: Selection
    k: int | None = None  # of topk, batchtopk and groupmax
    threshold: Threshold | None = None  # of batchtopk (one) and jumprelu (one per latent)
    subtracts_bias: bool = True
    transcodes: bool | None = False  # None where the layout does not tell
    skip: Float[Tensor, "d_out d_in"] | None = None
    matryoshka: tuple[int, ...] = ()

    @staticmethod
    def of(coder: SparseStack) -> Dictionary:
        """The coder's own weights; CoderError for one of several layers or with dense ones."""
        a = coder.architecture
        if a.layers > 1 or a.encoder_widths or a.decoder_widths:
            raise CoderError(
                f"the coder has {a.layers} sparse layer(s), dense layers of widths {a.encoder_widths} before and "
                f"{a.decoder_widths} behind; other libraries' layouts hold one sparse layer without dense ones"
            )
        own = {name: tensor.detach().cpu() for name, tensor in coder.state_dict().items()}
        encoder, encoder_bias = own["layers.0.encoder"], own["layers.0.encoder_bias"]
        if coder.reads == "resnet":  # its only layer reads x + b_dec
            encoder_bias = encoder_bias + coder.read_scale * (encoder @ own["decoder_bias"])
        return Dictionary(
            encoder,
            encoder_bias,
            own["layers.0.decoder"],
            own["decoder_bias"],
            a.selection,
            k=a.k_per_layer,
            threshold=_threshold(coder),
            subtracts_bias=coder.reads == "residual",
            transcodes=coder.transcodes,
            skip=own.get("skip"),
            matryoshka=a.matryoshka,
        )

    def coder(self) -> SparseStack:
        """The same as a stack of one layer; ConfigError where sizes cannot be."""
        if self.transcodes is None:
            raise ValueError("whether the coder transcodes is open; `placed` settles it")
        n_latents, d_in = self.encoder.shape
        architecture = Architecture(
            selection=self.selection,
            n_latents=n_latents,
            k=min(32, n_latents) if self.k is None else self.k,  # the other selections hold no k
            reads="residual" if self.subtracts_bias else "parallel",
            skip=self.skip is not None,
            matryoshka=self.matryoshka,
        )
        coder = SparseStack(architecture, d_in, len(self.decoder_bias) if self.transcodes else None)
        coder.load_state_dict(self._state())
        return coder

    def placed(self, *, transcodes: bool) -> Dictionary:
        """With what the layout may leave open settled: whether the coder predicts what it reads."""
        if self.transcodes is not None or not transcodes:
            return replace(self, transcodes=bool(self.transcodes))
        bias = self.encoder_bias
        if self.subtracts_bias:  # which our transcoders never do
            bias = bias - self.encoder @ self.decoder_bias
        return replace(self, encoder_bias=bias, subtracts_bias=False, transcodes=True)

    def with_unit_rows(self) -> Dictionary:
        """Decoder rows of unit norm, and activations that are larger instead; the threshold stays as it is."""
        norm = self.decoder.norm(dim=1).clamp_min(1e-8)
        return replace(
            self,
            encoder=self.encoder * norm[:, None],
            encoder_bias=self.encoder_bias * norm,
            decoder=self.decoder / norm[:, None],
        )

    def for_scaled(self, factor: float) -> Dictionary:
        """What does with x as this one does with factor · x, activations included."""
        return replace(
            self,
            encoder=self.encoder * factor,
            decoder=self.decoder / factor,
            decoder_bias=self.decoder_bias / factor,
        )

    def with_subtraction(self) -> Dictionary:
        """The same coder, reading x − b_dec."""
        if self.subtracts_bias:
            return self
        bias = self.encoder_bias + self.encoder @ self.decoder_bias
        return replace(self, encoder_bias=bias, subtracts_bias=True)

    def _state(self) -> dict[str, Tensor]:
        state = {
            "layers.0.encoder": self.encoder,
            "layers.0.encoder_bias": self.encoder_bias,
            "layers.0.decoder": self.decoder,
            "decoder_bias": self.decoder_bias,
        }
        if self.skip is not None:
            state["skip"] = self.skip
        if self.threshold is not None and self.selection == "batchtopk":
            state["layers.0.selection.threshold"] = self.threshold
        if self.threshold is not None and self.selection == "jumprelu":
            # Below zero a threshold does nothing, since what fires is positive; log 0 = -inf comes back as 0.
            state["layers.0.selection.log_threshold"] = self.threshold.clamp_min(0).log()
        return state


def gated(
    encoder: Float[Tensor, "M d_in"],
    decoder: Float[Tensor, "M d_out"],
    decoder_bias: Float[Tensor, "d_out"],
    *,
    magnitude: Float[Tensor, "M"],
    magnitude_bias: Float[Tensor, "M"],
    gate_bias: Float[Tensor, "M"],
    subtracts_bias: bool,
    transcodes: bool | None,
) -> Dictionary:
    """A gated coder as the JumpReLU that it equals (Rajamanoharan et al. 2024, arXiv:2404.16014, app. E).

    ReLU(eʳ w + b_mag) where w + b_gate > 0, with w = W_enc x: it fires where eʳ w + b_mag > b_mag − eʳ b_gate.
    """
    gain = magnitude.exp()
    return Dictionary(
        encoder * gain[:, None],
        magnitude_bias,
        decoder,
        decoder_bias,
        "jumprelu",
        threshold=magnitude_bias - gain * gate_bias,
        subtracts_bias=subtracts_bias,
        transcodes=transcodes,
    )


def _threshold(coder: SparseStack) -> Tensor | None:
    match coder.layers[0].selection:
        case BatchTopK() | JumpReLU() as selection:
            return torch.clone(selection.threshold.detach().cpu())
        case _:
            return None
