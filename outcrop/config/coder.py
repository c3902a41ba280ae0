"""The architecture of a sparse coder, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from tyro.conf import arg

from outcrop.config.strict import Strict, require

Optimizer = Literal["muon", "adam", "signum"]
Read = Literal["residual", "resnet", "parallel"]
Selection = Literal["topk", "batchtopk", "groupmax", "jumprelu", "relu"]
Loss = Literal["fvu", "ce", "kl"]
Normalise = Literal["centre-and-scale", "scale", "none"]


@dataclass(frozen=True)
class Architecture(Strict):
    """The architecture of a sparse coder."""

    selection: Selection = "topk"
    """What fires: the k largest of a token, of a batch, or of each of k groups; or all above a threshold
    (jumprelu, relu), kept few by train.sparsity-weight."""
    n_latents: int = 4608
    """Latents of each layer."""
    k: int = 32
    """Active latents of each layer, per token. For jumprelu only where training starts, for relu nothing."""
    layers: int = 1
    """Depth: the number of stacked sparse layers."""
    split: bool = False
    """n-latents and k are totals, split evenly over the layers."""
    reads: Read = "residual"
    """What a layer reads: what is left of x, x plus the reconstruction so far, or x."""
    encoder_widths: tuple[int, ...] = ()
    """Widths of dense layers between x and each sparse layer."""
    decoder_widths: tuple[int, ...] = ()
    """Widths of dense layers between each sparse layer and the reconstruction."""
    skip: bool = False
    """A linear map from source to target beside the latents, for transcoders."""
    matryoshka: tuple[int, ...] = ()
    """Sizes of prefixes of each dictionary that shall reconstruct by themselves, too."""

    def __post_init__(self) -> None:
        for name in ("n_latents", "k", "layers"):
            value = getattr(self, name)
            require(value >= 1, f"coder.{name.replace('_', '-')} is {value}; it must be at least 1")
        for name in ("n_latents", "k"):
            value = getattr(self, name)
            require(
                not self.split or value % self.layers == 0,
                f"coder.{name.replace('_', '-')} is {value}, which {self.layers} layers cannot split evenly",
            )
        require(
            self.k_per_layer <= self.latents_per_layer,
            f"coder.k is {self.k}; it must lie between 1 and coder.n-latents, which is {self.n_latents}",
        )
        require(
            list(self.matryoshka) == sorted(set(self.matryoshka))
            and all(0 < prefix < self.latents_per_layer for prefix in self.matryoshka),
            f"coder.matryoshka is {self.matryoshka}; it must rise from above 0 to below the "
            f"{self.latents_per_layer} latents of a layer",
        )
        require(
            all(width >= 1 for width in self.encoder_widths + self.decoder_widths),
            f"coder.encoder-widths are {self.encoder_widths} and coder.decoder-widths {self.decoder_widths}; "
            "widths must be at least 1",
        )

    def unlike(self, other: Architecture) -> list[str]:
        """The settings that were made and that another architecture does not have."""
        own = ((field.name, getattr(self, field.name), field.default) for field in fields(Architecture))
        return [name for name, value, default in own if value not in (default, getattr(other, name))]

    def alone(self) -> Architecture:
        """The architecture without what else a `CoderConfig` says."""
        return Architecture(**{field.name: getattr(self, field.name) for field in fields(Architecture)})

    @property
    def latents_per_layer(self) -> int:
        return self.n_latents // self.layers if self.split else self.n_latents

    @property
    def k_per_layer(self) -> int:
        return self.k // self.layers if self.split else self.k


@dataclass(frozen=True)
class CoderConfig(Architecture):
    """The architecture of the sparse coder, or a coder that is already trained."""

    path: Annotated[str | None, arg(name="coder", prefix_name=False)] = None
    """A trained coder (a directory of outcrop's, sparsify's, SAELens's, Gemma Scope's or dictionary_learning's,
    or a hub name); nothing is trained then, unless train.finetune is set."""
    name: str = "topk"
    """Name of this setting in keys and file names."""
    seeds: tuple[int, ...] = ()
    """One coder for each of these seeds; by default one, of the run's seed."""


@dataclass(frozen=True)
class TrainConfig(Strict):
    """Training of the coders."""

    tokens: int = 10_000_000
    """Eligible tokens to train on, each seen once."""
    held_out_tokens: int = 16_384
    """Tokens of documents of their own on which FVU, L0 and the dead share are measured."""
    ce_tokens: int = 8_192
    """Of these, the tokens on which the coder is spliced into the model (cross-entropy recovered)."""
    batch_tokens: int = 2_048
    """Tokens per step of the optimizer."""
    block_tokens: int = 65_536
    """Size of the shuffle buffer, in tokens; also what mean, scale and norms are estimated on."""
    micro_batch_tokens: int | None = None
    """Tokens whose gradients are computed at once and then accumulated, to save memory; by default the batch."""
    loss: Loss = "fvu"
    """What is minimised: the unexplained variance, or end to end the language model's cross-entropy or its
    KL divergence from the unchanged model, with every hookpoint's coder spliced in."""
    finetune: bool = False
    """Go on training the coder that coder.path names."""
    normalise: Normalise = "centre-and-scale"
    """What is done to activations before coders see them; saved coders take raw ones whatever it is."""
    start_transposed: bool = True
    """Encoders start as their decoder's transpose, and not as rows of their own."""
    start_within: float | None = None
    """Share of the variance; latents start within the fewest directions that hold it. By default anywhere."""
    optimizer: Optimizer = "adam"
    """For the matrices: Adam, Muon, or Signum with schedule-free averaging. Under Muon, Adam trains the vectors."""
    lr: float | None = None
    """Peak learning rate; by default the optimizer's own, for adam and signum by a law in the latents of a layer
    and the width."""
    balance_rows: bool = False
    """Muon gives every row (every latent) an update of equal size."""
    warmup_share: float = 0.02
    """Share of the steps over which the learning rate rises."""
    clip: float | None = None
    """Bound on the norm of a coder's gradient."""
    k_start: int | None = None
    """k of a layer at the first step, from which it falls linearly to coder.k."""
    k_decay_share: float = 0.5
    """Share of the steps over which k falls."""
    prefix_losses: bool = False
    """Every prefix of the stack shall reconstruct, so that a shorter stack is itself a coder."""
    multi_topk: bool = False
    """Beside k, 4k latents of each layer shall reconstruct, with an eighth of the weight."""
    auxk_weight: float = 1 / 32
    """Weight of AuxK, which lets dead latents model the error; 0 leaves it out."""
    spread_weight: float = 0.0
    """Weight of a penalty on the variance over latents of their mean pre-activations in a batch."""
    sparsity_weight: float = 1e-3
    """Weight of the penalty on the mean L1 norm (relu) or mean L0 (jumprelu) of a token in each layer."""
    dead_after_tokens: int | None = None
    """A latent that has not fired for so many tokens counts as dead; by default a tenth of train.tokens, at
    most 10,000,000."""
    track: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Where measurements go besides the console and metrics.jsonl; each needs its package."""
    sink_norm_multiple: float | None = 8.0
    """Tokens whose norm exceeds this multiple of the median are excluded as attention sinks."""
    evaluate_every_tokens: int = 131_072
    """How often the held-out tokens are measured."""
    ce_every_tokens: int | None = None
    """How often, in training, cross-entropy recovered and KL are measured, too; by default only at the end."""
    activations: str | None = None
    """A directory in which the activations of the training text are kept, so that another training over the
    same text reads them there instead of running the language model."""
    checkpoint_every_tokens: int = 262_144
    """How often the state is saved, so that a killed training goes on from there."""

    def __post_init__(self) -> None:
        for name in (
            "tokens",
            "held_out_tokens",
            "ce_tokens",
            "batch_tokens",
            "block_tokens",
            "evaluate_every_tokens",
            "checkpoint_every_tokens",
        ):
            value = getattr(self, name)
            require(value >= 1, f"train.{name.replace('_', '-')} is {value}; it must be at least 1")
        require(
            self.batch_tokens <= self.block_tokens,
            f"train.batch-tokens is {self.batch_tokens}, more than "
            f"train.block-tokens, {self.block_tokens}; a batch is drawn from one block",
        )
        require(self.lr is None or self.lr > 0, f"train.lr is {self.lr}; it must be positive")
        require(0 <= self.warmup_share < 1, f"train.warmup-share is {self.warmup_share}; it must lie in [0, 1)")
        dead_after = self.dead_after_tokens
        require(
            dead_after is None or dead_after >= 1, f"train.dead-after-tokens is {dead_after}; it must be at least 1"
        )
        micro, clip, k_start = self.micro_batch_tokens, self.clip, self.k_start
        require(micro is None or micro >= 1, f"train.micro-batch-tokens is {micro}; it must be at least 1")
        require(clip is None or clip > 0, f"train.clip is {clip}; it must be positive")
        require(k_start is None or k_start >= 1, f"train.k-start is {k_start}; it must be at least 1")
        require(0 < self.k_decay_share <= 1, f"train.k-decay-share is {self.k_decay_share}; it must lie in (0, 1]")
        for name in ("auxk_weight", "spread_weight", "sparsity_weight"):
            value = getattr(self, name)
            require(value >= 0, f"train.{name.replace('_', '-')} is {value}; it must not be negative")
        within = self.start_within
        require(within is None or 0 < within <= 1, f"train.start-within is {within}; it must lie in (0, 1]")
        multiple = self.sink_norm_multiple
        require(
            multiple is None or multiple > 1,
            f"train.sink-norm-multiple is {multiple}; it must exceed 1, or be None to exclude no token by its norm",
        )

    @property
    def tokens_until_dead(self) -> int:
        """Tokens without firing after which a latent is dead, as set or by default."""
        return self.dead_after_tokens or max(1, min(10_000_000, self.tokens // 10))
