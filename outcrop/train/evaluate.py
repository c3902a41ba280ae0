"""How well a coder reconstructs held-out activations, by itself and inside the language model.

FVU = Σ‖y − ŷ‖² / Σ‖y − ȳ‖², ȳ the mean over the evaluation set
L0  = activations > 0 per token
CE recovered = (CE_zero − CE_coder) / (CE_zero − CE_clean), spliced in at eligible positions only
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from outcrop.coders.placed import Change, PlacedCoder, spliced
from outcrop.coders.stack import SparseStack
from outcrop.model.activations import PaddedContexts, padded_batches
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.progress import Advance
from outcrop.train.normalise import effective_rank, gamma
from outcrop.train.stream import Activations
from outcrop.types import ActivationBatch, CoderKey, CrossEntropy, LayerReconstruction, Place, Reconstruction

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
        bins = bins.clamp_min(1).where(self.fired > 0, 0)
        return [layer.bincount(minlength=len(_RATE_BINS)).tolist() for layer in bins]


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
        batch = self._batch(placed)
        return measure(placed.coder, batch.source, batch.target)

    @property
    def n_ce_tokens(self) -> int:
        """All tokens of the contexts on which coders are spliced into the model, special ones included."""
        return int(self.corpus.context_start[len(_first_contexts(self.corpus, self.ce_tokens))])

    def cross_entropies(self, coders: Sequence[PlacedCoder], advance: Advance) -> list[CrossEntropy]:
        means = [self._batch(placed).target.mean(dim=0, dtype=torch.float32) for placed in coders]
        return cross_entropies(self.model, coders, means, self.corpus, self.ce_tokens, self.batch_tokens, advance)

    def reconstructions(
        self,
        coders: Sequence[PlacedCoder],
        held: Sequence[HeldOut],
        histories: Sequence[TrainingHistory | None],
        advance: Advance,
    ) -> list[Reconstruction]:
        """All measures of coders for raw activations; without a history, no dead shares."""
        ces = self.cross_entropies(coders, advance)
        return [self._reconstruction(*one) for one in zip(coders, held, histories, ces, strict=True)]

    def _reconstruction(
        self, placed: PlacedCoder, held: HeldOut, history: TrainingHistory | None, ce: CrossEntropy
    ) -> Reconstruction:
        dead = history.dead_share if history else [None] * placed.coder.n_layers
        layers = zip(held.fvu, held.l0, held.norm_share, dead, held.unfired_share, strict=True)
        source = self._batch(placed).source
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
            cross_entropy=ce,
        )

    def _batch(self, placed: PlacedCoder) -> ActivationBatch:
        return self.activations[placed.key.place].below(placed.max_norm)


@torch.no_grad()
def cross_entropies(
    model: LanguageModel,
    coders: Sequence[PlacedCoder],
    means: Sequence[Float[Tensor, "_"]],
    corpus: Corpus,
    n_tokens: int,
    batch_tokens: int,
    advance: Advance,
) -> list[CrossEntropy]:
    """Of each coder, the next-token loss on the first contexts with about `n_tokens` tokens, clean and with three
    things spliced in: the coder, zero, and the coder's own of `means`, the same for all coders at one place.

    The clean model runs once for all coders, zero and the mean once for those that leave the same tokens alone.
    """
    losses, n, changes = defaultdict[_Loss, float](float), 0, _changes(coders, means)
    for batch in padded_batches(corpus, _first_contexts(corpus, n_tokens), batch_tokens):
        eligible = torch.from_numpy(batch.eligible(corpus)).to(model.device)
        tokens = batch.tokens.to(model.device)
        predicts = predictions(batch, eligible)
        targets = tokens[:, 1:][predicts]
        n += len(targets)
        clean = logits(model, tokens, predicts)
        losses["clean", None] += _nll(clean, targets)
        for loss, (placed, change) in changes.items():
            with spliced(model, placed, change, eligible):
                changed = logits(model, tokens, predicts)
            losses[loss] += _nll(changed, targets)
            if loss[0] == "coder":
                losses["kl", placed.key] += _kl(clean, changed)
        advance(int((batch.position >= 0).sum()))
    each = {loss: total / (n or math.nan) for loss, total in losses.items()}
    return [
        CrossEntropy(
            n_tokens=n,
            clean=each["clean", None],
            coder=each["coder", placed.key],
            zero=each["zero", _splice(placed)],
            mean=each["mean", _splice(placed)],
            kl=each["kl", placed.key],
        )
        for placed in coders
    ]


_Splice = tuple[Place, float | None]  # where something is spliced in, and the norm above which tokens stay as they are
_Loss = tuple[str, CoderKey | _Splice | None]  # with what in the model


def _splice(placed: PlacedCoder) -> _Splice:
    return placed.key.place, placed.max_norm


def _changes(coders: Sequence[PlacedCoder], means: Sequence[Tensor]) -> dict[_Loss, tuple[PlacedCoder, Change]]:
    """What is spliced in, and where: at the place of a coder."""
    found = dict[_Loss, tuple[PlacedCoder, Change]]()
    for placed, mean in zip(coders, means, strict=True):
        found["coder", placed.key] = placed, partial(_reconstruction, placed.coder)
        found["zero", _splice(placed)] = placed, lambda x, y: torch.zeros_like(y)
        found["mean", _splice(placed)] = placed, partial(_expanded, mean)
    return found


def _reconstruction(coder: SparseStack, x: Tensor, y: Tensor) -> Tensor:
    return coder(x)


def _expanded(mean: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return mean.expand_as(y)


def _first_contexts(corpus: Corpus, n_tokens: int) -> range:
    return range(max(1, int((corpus.context_start[1:] <= n_tokens).sum())))


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
