"""How well a coder reconstructs held-out activations, by itself and inside the language model.

FVU = Σ‖y − ŷ‖² / Σ‖y − ȳ‖², ȳ the mean over the evaluation set
L0  = activations > 0 per token
CE recovered = (CE_zero − CE_coder) / (CE_zero − CE_clean), spliced in at eligible positions only
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from outcrop.coders.placed import PlacedCoder, spliced
from outcrop.coders.stack import SparseStack
from outcrop.model.activations import PaddedContexts, padded_batches
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance
from outcrop.train.normalise import effective_rank, gamma
from outcrop.train.stream import Activations
from outcrop.types import CrossEntropy, LayerReconstruction, Reconstruction

_CHUNK = 4_096  # tokens measured at once
_LOGIT_TOKENS = 512  # tokens whose logits are held in float32 at once
_RATE_BINS = torch.logspace(-6, 0, 13)  # half decades of the firing rate


@dataclass(frozen=True)
class HeldOut:
    """A coder's sums over the held-out tokens; one entry per layer."""

    n_tokens: int
    fvu: list[float]  # of the stack up to and including the layer
    l0: list[float]
    norm_share: list[float]
    fired: Int64[Tensor, "L M"]  # tokens on which each latent fired

    @property
    def unfired_share(self) -> list[float]:
        return (self.fired == 0).double().mean(dim=1).tolist()

    @property
    def rate_histogram(self) -> list[list[int]]:
        """Latents of each layer that never fired, and then by half decades of their firing rate from 1e-6 on."""
        bins = torch.bucketize(self.fired / self.n_tokens, _RATE_BINS.to(self.fired.device))
        return [layer.bincount(minlength=len(_RATE_BINS)).tolist() for layer in bins.where(self.fired > 0, 0)]


@torch.no_grad()
def measure(coder: SparseStack, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]) -> HeldOut:
    """FVU, L0 and share of the norm of each layer, and how often each latent fired."""
    mean = y.mean(dim=0, dtype=torch.float32)
    total = 0.0
    error, l0, norm = (torch.zeros(coder.n_layers, dtype=torch.double) for _ in range(3))
    fired = torch.zeros(coder.n_layers, coder.latents_per_layer, dtype=torch.long, device=x.device)
    for part_x, part_y in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        part_y = part_y.float()
        total += float((part_y - mean).pow(2).sum())
        for i, layer in enumerate(coder.run(part_x.float())):
            error[i] += float((part_y - layer.reconstruction).pow(2).sum())
            norm[i] += float(layer.output.pow(2).sum())
            count = layer.codes.count(coder.latents_per_layer)
            fired[i] += count
            l0[i] += int(count.sum())
    n = len(x)
    return HeldOut(n, (error / total).tolist(), (l0 / n).tolist(), (norm / norm.sum()).tolist(), fired)


@dataclass(frozen=True)
class TrainingHistory:
    """What only training knows of a coder."""

    trained_tokens: int
    dead_after_tokens: int
    dead_share: list[float | None]  # of each layer


@dataclass(frozen=True)
class HeldOutText:
    """Documents that no coder was trained on, and the model's raw activations there."""

    model: LanguageModel
    corpus: Corpus
    activations: Activations
    ce_tokens: int
    batch_tokens: int

    def measure(self, placed: PlacedCoder) -> HeldOut:
        """Of a coder for raw activations."""
        batch = self.activations[placed.key.place].below(placed.max_norm)
        return measure(placed.coder, batch.source, batch.target)

    @property
    def n_ce_tokens(self) -> int:
        """All tokens of the contexts on which coders are spliced into the model, special ones included."""
        return int(self.corpus.context_start[len(_first_contexts(self.corpus, self.ce_tokens))])

    def cross_entropy(self, placed: PlacedCoder, advance: Advance) -> CrossEntropy:
        target = self.activations[placed.key.place].below(placed.max_norm).target
        mean = target.mean(dim=0, dtype=torch.float32)
        return cross_entropy(self.model, placed, self.corpus, mean, self.ce_tokens, self.batch_tokens, advance)

    def reconstruction(
        self, placed: PlacedCoder, held: HeldOut, history: TrainingHistory | None, advance: Advance
    ) -> Reconstruction:
        """All measures of a coder for raw activations; without a history, no dead shares."""
        dead = history.dead_share if history else [None] * placed.coder.n_layers
        layers = zip(held.fvu, held.l0, held.norm_share, dead, held.unfired_share, strict=True)
        source = self.activations[placed.key.place].below(placed.max_norm).source
        return Reconstruction(
            coder=placed.key,
            n_tokens=held.n_tokens,
            dead_after_tokens=history.dead_after_tokens if history else None,
            trained_tokens=history.trained_tokens if history else 0,
            gamma=gamma(source),
            effective_rank=effective_rank(source),
            fvu=held.fvu[-1],
            l0=sum(held.l0),
            layers=tuple(LayerReconstruction(*layer) for layer in layers),
            cross_entropy=self.cross_entropy(placed, advance),
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
    mean: Float[Tensor, "d_out"],
    n_tokens: int,
    batch_tokens: int,
    advance: Advance,
) -> CrossEntropy:
    """The next-token loss on the first contexts with about `n_tokens` tokens, clean and with three things
    spliced in, of which `mean` is one."""
    sums = _Sums()
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
    predicts = predictions(batch, eligible)
    targets = tokens[:, 1:][predicts]
    changes: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "coder": lambda x, y: placed.coder(x),
        "zero": lambda x, y: torch.zeros_like(y),
        "mean": lambda x, y: mean.expand_as(y),
    }
    clean = logits(model, tokens, predicts)
    sums.n += len(targets)
    sums.clean += _nll(clean, targets)
    for name, change in changes.items():
        with spliced(model, placed, change, eligible):
            changed = logits(model, tokens, predicts)
        setattr(sums, name, getattr(sums, name) + _nll(changed, targets))
        if name == "coder":
            sums.kl += _kl(clean, changed)


def predictions(batch: PaddedContexts, eligible: Bool[Tensor, "b t"]) -> Bool[Tensor, "b t-1"]:
    """The eligible positions that have a token behind them in their context."""
    real = torch.from_numpy(batch.position >= 0).to(eligible.device)
    return eligible[:, :-1] & real[:, 1:]


def logits(model: LanguageModel, tokens: Int[Tensor, "b t"], wanted: Bool[Tensor, "b t-1"]) -> Float[Tensor, "n v"]:
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
