"""How well a coder reconstructs held-out activations, by itself and inside the language model.

FVU = Σ‖y − ŷ‖² / Σ‖y − ȳ‖², ȳ the mean over the evaluation set
L0  = activations > 0 per token
CE recovered = (CE_zero − CE_coder) / (CE_zero − CE_clean), spliced in at eligible positions only
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import PlacedCoder
from outcrop.model.activations import PaddedContexts, padded_batches
from outcrop.model.corpus import Corpus
from outcrop.model.hooks import replaced
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance
from outcrop.types import CrossEntropy, LayerReconstruction, Reconstruction

_CHUNK = 4_096  # tokens measured at once
_LOGIT_TOKENS = 512  # tokens whose logits are held in float32 at once


@dataclass(frozen=True)
class HeldOut:
    """A coder's sums over the held-out tokens; one entry per layer."""

    n_tokens: int
    fvu: list[float]  # of the stack up to and including the layer
    l0: list[float]
    norm_share: list[float]
    unfired_share: list[float]


@torch.no_grad()
def measure(coder: SparseStack, x: Float[Tensor, "n d"]) -> HeldOut:
    """FVU, L0 and share of the norm of each layer, and which latents fired."""
    mean = x.mean(dim=0, dtype=torch.float32)
    total = 0.0
    error, l0, norm = (torch.zeros(coder.n_layers, dtype=torch.double) for _ in range(3))
    fired = torch.zeros(coder.n_layers, coder.latents_per_layer, dtype=torch.bool, device=x.device)
    for chunk in x.split(_CHUNK):
        chunk = chunk.float()
        total += float((chunk - mean).pow(2).sum())
        reconstruction = coder.decoder_bias.expand_as(chunk)
        for i, layer in enumerate(coder.run(chunk)):
            reconstruction = reconstruction + layer.output
            error[i] += float((chunk - reconstruction).pow(2).sum())
            norm[i] += float(layer.output.pow(2).sum())
            l0[i] += float((layer.values > 0).sum())
            fired[i, layer.indices[layer.values > 0]] = True
    n = len(x)
    return HeldOut(
        n_tokens=n,
        fvu=(error / total).tolist(),
        l0=(l0 / n).tolist(),
        norm_share=(norm / norm.sum()).tolist(),
        unfired_share=(1 - fired.cpu().double().mean(dim=1)).tolist(),
    )


@dataclass(frozen=True)
class TrainingHistory:
    """What only training knows of a coder."""

    trained_tokens: int
    dead_after_tokens: int
    dead_share: list[float]  # of each layer


def reconstruction(
    placed: PlacedCoder, values: Float[Tensor, "n d"], ce: CrossEntropy, history: TrainingHistory | None
) -> Reconstruction:
    """The measures of a coder on raw held-out activations without sinks; without a history, no dead shares."""
    held = measure(placed.coder, values)
    dead = history.dead_share if history else [None] * placed.coder.n_layers
    layers = zip(held.fvu, held.l0, held.norm_share, dead, held.unfired_share, strict=True)
    return Reconstruction(
        coder=placed.key,
        n_tokens=held.n_tokens,
        dead_after_tokens=history.dead_after_tokens if history else None,
        trained_tokens=history.trained_tokens if history else 0,
        fvu=held.fvu[-1],
        l0=sum(held.l0),
        layers=tuple(LayerReconstruction(*layer) for layer in layers),
        cross_entropy=ce,
    )


@dataclass
class _Sums:
    """Of the losses, while batches go by."""

    n: int = 0
    clean: float = 0.0
    coder: float = 0.0
    zero: float = 0.0
    mean: float = 0.0
    kl: float = 0.0


@torch.no_grad()
def cross_entropy(
    model: LanguageModel,
    placed: PlacedCoder,
    corpus: Corpus,
    values: Float[Tensor, "n d"],
    n_tokens: int,
    batch_tokens: int,
    advance: Advance,
) -> CrossEntropy:
    """The next-token loss on the first contexts with about `n_tokens` tokens, clean and with three things
    spliced in. `values` are its raw activations without sinks, whose mean is one of the three."""
    sums = _Sums()
    mean = values.mean(dim=0, dtype=torch.float32)
    for batch in padded_batches(corpus, _first_contexts(corpus, n_tokens), batch_tokens):
        _add_losses(sums, model, placed, mean, batch, corpus)
        advance(int((batch.position >= 0).sum()))
    n = sums.n or math.nan
    return CrossEntropy(sums.n, sums.clean / n, sums.coder / n, sums.zero / n, sums.mean / n, sums.kl / n)


def _first_contexts(corpus: Corpus, n_tokens: int) -> range:
    return range(max(1, int((corpus.context_start[1:] <= n_tokens).sum())))


def _add_losses(
    sums: _Sums, model: LanguageModel, placed: PlacedCoder, mean: Tensor, batch: PaddedContexts, corpus: Corpus
) -> None:
    """Predictions made at eligible positions, of the token behind them in the same context."""
    eligible = torch.from_numpy(batch.eligible(corpus)).to(model.device)
    tokens = batch.tokens.to(model.device)
    real = torch.from_numpy(batch.position >= 0).to(model.device)
    predicts = eligible[:, :-1] & real[:, 1:]
    targets = tokens[:, 1:][predicts]
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "coder": lambda x: placed.coder(x.float()).to(x.dtype),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x.dtype).expand_as(x),
    }
    clean = _logits(model, tokens, predicts)
    sums.n += len(targets)
    sums.clean += _nll(clean, targets)
    for name, change in changes.items():
        with _spliced(model, placed, change, eligible):
            logits = _logits(model, tokens, predicts)
        setattr(sums, name, getattr(sums, name) + _nll(logits, targets))
        if name == "coder":
            sums.kl += _kl(clean, logits)


def _spliced(
    model: LanguageModel, placed: PlacedCoder, change: Callable[[Tensor], Tensor], eligible: Bool[Tensor, "b t"]
) -> AbstractContextManager[None]:
    """Changes the eligible positions of the coder's source, sinks left as they are."""

    def splice(x: Tensor) -> Tensor:
        chosen = eligible
        if placed.max_norm is not None:
            chosen = chosen & (x.float().norm(dim=-1) <= placed.max_norm)
        x = x.clone()
        x[chosen] = change(x[chosen])
        return x

    return replaced(model, placed.key.source, splice)


def _logits(model: LanguageModel, tokens: Int[Tensor, "b t"], wanted: Bool[Tensor, "b t-1"]) -> Float[Tensor, "n v"]:
    return model.module(input_ids=tokens, use_cache=False).logits[:, :-1][wanted]


def _nll(logits: Float[Tensor, "n v"], targets: Int[Tensor, "n"]) -> float:
    parts = zip(logits.split(_LOGIT_TOKENS), targets.split(_LOGIT_TOKENS), strict=True)
    return sum(float(F.cross_entropy(part.float(), target, reduction="sum")) for part, target in parts)


def _kl(clean: Float[Tensor, "n v"], other: Float[Tensor, "n v"]) -> float:
    """Σ over tokens of KL(clean ‖ other), in nats."""
    total = 0.0
    for p, q in zip(clean.split(_LOGIT_TOKENS), other.split(_LOGIT_TOKENS), strict=True):
        p, q = p.float().log_softmax(-1), q.float().log_softmax(-1)
        total += float(F.kl_div(q, p, reduction="sum", log_target=True))
    return total
