"""Every setting, as one frozen dataclass per stage and `RunConfig` over them.

A field's docstring is its help text. A config holds no runtime state. What is written to a
run directory as `config.yaml` is a `RunConfig`, and repeats the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from tyro.conf import Suppress, arg

from outcrop.errors import ConfigError

Optimizer = Literal["muon", "adam", "signum"]
Read = Literal["residual", "resnet", "parallel"]
Selection = Literal["topk", "batchtopk", "groupmax", "jumprelu", "relu"]
Loss = Literal["fvu", "ce", "kl"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


class _Strict:
    """Unknown settings in a file are refused, not ignored."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class ModelConfig(_Strict):
    """The language model under study."""

    name: Annotated[str, arg(name="model", prefix_name=False)]
    """A directory, a hub name, or a .gguf file."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is bfloat16 where the hardware has it."""
    device: str = "auto"
    """cuda, mps or cpu; auto takes the first that is there."""
    batch_tokens: int = 4_096
    """Tokens of one forward pass, padding included."""

    def __post_init__(self) -> None:
        _require(self.batch_tokens >= 1, f"model.batch-tokens is {self.batch_tokens}; it must be at least 1")


@dataclass(frozen=True)
class TextConfig(_Strict):
    """The corpus, and how it is cut into contexts."""

    path: Annotated[str, arg(name="text", prefix_name=False)]
    """A .txt, .jsonl, .jsonl.gz or .parquet file, or the name of a data set on the hub."""
    column: str = "text"
    """The column or JSON field that holds the text."""
    split: str = "train"
    """Split of a hub data set."""
    context_tokens: int = 256
    """Longest context that the model reads at once, in tokens."""
    max_document_tokens: int = 512
    """What a document contributes at most, in tokens."""
    shuffle_documents: int = 100_000
    """Size of the shuffle buffer, in documents; a corpus below it is shuffled as a whole."""

    def __post_init__(self) -> None:
        _require(
            self.context_tokens >= 2,
            f"text.context-tokens is {self.context_tokens}; it must be at least 2, "
            "because the first position of each context is excluded",
        )
        _require(
            self.max_document_tokens >= 2,
            f"text.max-document-tokens is {self.max_document_tokens}; it must be at least 2",
        )
        _require(
            self.shuffle_documents >= 1, f"text.shuffle-documents is {self.shuffle_documents}; it must be at least 1"
        )


@dataclass(frozen=True)
class Architecture(_Strict):
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
            _require(value >= 1, f"coder.{name.replace('_', '-')} is {value}; it must be at least 1")
        for name in ("n_latents", "k"):
            value = getattr(self, name)
            _require(
                not self.split or value % self.layers == 0,
                f"coder.{name.replace('_', '-')} is {value}, which {self.layers} layers cannot split evenly",
            )
        _require(
            self.k_per_layer <= self.latents_per_layer,
            f"coder.k is {self.k}; it must lie between 1 and coder.n-latents, which is {self.n_latents}",
        )
        _require(
            list(self.matryoshka) == sorted(set(self.matryoshka))
            and all(0 < prefix < self.latents_per_layer for prefix in self.matryoshka),
            f"coder.matryoshka is {self.matryoshka}; it must rise from above 0 to below the "
            f"{self.latents_per_layer} latents of a layer",
        )
        _require(
            all(width >= 1 for width in self.encoder_widths + self.decoder_widths),
            f"coder.encoder-widths are {self.encoder_widths} and coder.decoder-widths {self.decoder_widths}; "
            "widths must be at least 1",
        )

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
class TrainConfig(_Strict):
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
    optimizer: Optimizer = "muon"
    """For the matrices: Muon, Adam, or Signum with schedule-free averaging. Under Muon, Adam trains the vectors."""
    lr: float | None = None
    """Peak learning rate; the default follows a law in the number of latents."""
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
    auxk_weight: float = 0.0
    """Weight of AuxK, which lets dead latents model the error; 1/32 is usual, 0 leaves it out."""
    sparsity_weight: float = 1e-3
    """Weight of the penalty on the mean L1 norm (relu) or mean L0 (jumprelu) of a token in each layer."""
    dead_after_tokens: int = 1_000_000
    """A latent that has not fired for so many tokens counts as dead."""
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
            "dead_after_tokens",
            "evaluate_every_tokens",
            "checkpoint_every_tokens",
        ):
            value = getattr(self, name)
            _require(value >= 1, f"train.{name.replace('_', '-')} is {value}; it must be at least 1")
        _require(
            self.batch_tokens <= self.block_tokens,
            f"train.batch-tokens is {self.batch_tokens}, more than "
            f"train.block-tokens, {self.block_tokens}; a batch is drawn from one block",
        )
        _require(self.lr is None or self.lr > 0, f"train.lr is {self.lr}; it must be positive")
        _require(0 <= self.warmup_share < 1, f"train.warmup-share is {self.warmup_share}; it must lie in [0, 1)")
        micro, clip, k_start = self.micro_batch_tokens, self.clip, self.k_start
        _require(micro is None or micro >= 1, f"train.micro-batch-tokens is {micro}; it must be at least 1")
        _require(clip is None or clip > 0, f"train.clip is {clip}; it must be positive")
        _require(k_start is None or k_start >= 1, f"train.k-start is {k_start}; it must be at least 1")
        _require(0 < self.k_decay_share <= 1, f"train.k-decay-share is {self.k_decay_share}; it must lie in (0, 1]")
        for name in ("auxk_weight", "sparsity_weight"):
            value = getattr(self, name)
            _require(value >= 0, f"train.{name.replace('_', '-')} is {value}; it must not be negative")
        multiple = self.sink_norm_multiple
        _require(
            multiple is None or multiple > 1,
            f"train.sink-norm-multiple is {multiple}; it must exceed 1, or be None to exclude no token by its norm",
        )


@dataclass(frozen=True)
class CacheConfig(_Strict):
    """The cache of latents, over documents that were not trained on."""

    tokens: int = 10_000_000
    """Tokens to cache."""
    shard_tokens: int = 1_000_000
    """Tokens per shard; a killed run loses at most one shard's work."""
    window_tokens: int = 32
    """Length w of the windows of the fixed grid, in eligible tokens."""

    def __post_init__(self) -> None:
        for name in ("tokens", "shard_tokens", "window_tokens"):
            value = getattr(self, name)
            _require(value >= 1, f"cache.{name.replace('_', '-')} is {value}; it must be at least 1")


@dataclass(frozen=True)
class SelectConfig(_Strict):
    """Which latents are explained."""

    n_latents: int = 24
    """How many of each coder, spread over its layers and over bins of log firing rate."""
    n_rate_bins: int = 8
    """Bins of log firing rate within a layer."""

    def __post_init__(self) -> None:
        _require(self.n_latents >= 1, f"select.n-latents is {self.n_latents}; it must be at least 1")
        _require(self.n_rate_bins >= 1, f"select.n-rate-bins is {self.n_rate_bins}; it must be at least 1")


@dataclass(frozen=True)
class ExamplesConfig(_Strict):
    """The windows that explainers and judges see of each latent."""

    n_quantiles: int = 5
    """Q: strata of the activating windows, by peak."""
    explain_activating: int = 10
    """Activating windows for the explainer, spread evenly over the quantiles."""
    explain_random: int = 3
    """Random non-activating windows for the explainer."""
    explain_same_token: int = 3
    """Non-activating windows with a trigger token for the explainer."""
    score_activating: int = 20
    """Activating windows for the judge, spread evenly over the quantiles."""
    score_random: int = 20
    """Random non-activating windows for the judge."""
    score_same_token: int = 10
    """Non-activating windows with a trigger token for the judge."""

    def __post_init__(self) -> None:
        _require(self.n_quantiles >= 1, f"examples.n-quantiles is {self.n_quantiles}; it must be at least 1")
        for name in ("explain_activating", "score_activating"):
            value = getattr(self, name)
            _require(
                value >= self.n_quantiles and value % self.n_quantiles == 0,
                f"examples.{name.replace('_', '-')} is {value}; it must be a positive multiple of "
                f"examples.n-quantiles, which is {self.n_quantiles}",
            )
        for name in ("explain_random", "explain_same_token", "score_random", "score_same_token"):
            value = getattr(self, name)
            _require(value >= 0, f"examples.{name.replace('_', '-')} is {value}; it must not be negative")


@dataclass(frozen=True)
class JudgeConfig(_Strict):
    """The language models that explain and judge. Keys are read from OPENAI_API_KEY."""

    name: Annotated[str | None, arg(name="judge", prefix_name=False)] = None
    """Address of an OpenAI-compatible server (http://…/v1), or a transformers model (directory,
    hub name or .gguf file) that runs in this process."""
    explainer: Annotated[str | None, arg(name="explainer", prefix_name=False)] = None
    """The same, for writing explanations; by default the judge."""
    model: str | None = None
    """Name of the model on the judge's server; by default the first that it serves."""
    explainer_model: str | None = None
    """Name of the model on the explainer's server; by default the first that it serves."""
    concurrency: int = 8
    """Requests in flight at a server, or prompts in a batch of a model in this process."""
    timeout_seconds: float = 60.0
    """How long one attempt may take."""
    attempts: int = 5
    """How often a request is tried where trying again can help."""

    def __post_init__(self) -> None:
        _require(self.concurrency >= 1, f"judge.concurrency is {self.concurrency}; it must be at least 1")
        _require(self.timeout_seconds > 0, f"judge.timeout-seconds is {self.timeout_seconds}; it must be positive")
        _require(self.attempts >= 1, f"judge.attempts is {self.attempts}; it must be at least 1")


@dataclass(frozen=True)
class ExplainConfig(_Strict):
    """The contrastive explainer."""

    max_tokens: int = 32
    """Length of an explanation, in tokens of the explainer."""

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, f"explain.max-tokens is {self.max_tokens}; it must be at least 1")


@dataclass(frozen=True)
class ScoreConfig(_Strict):
    """Scoring by detection."""

    control: bool = True
    """Judge the same windows without any explanation, too."""


@dataclass(frozen=True)
class ReportConfig(_Strict):
    """The report."""

    confidence: float = 0.95
    """Coverage of the intervals."""
    draws: int = 4_000
    """Draws from the Betas through which intervals are propagated."""

    def __post_init__(self) -> None:
        _require(0 < self.confidence < 1, f"report.confidence is {self.confidence}; it must lie between 0 and 1")
        _require(self.draws >= 100, f"report.draws is {self.draws}; it must be at least 100")


@dataclass(frozen=True)
class RunConfig(_Strict):
    """One road from text to report."""

    model: ModelConfig
    text: TextConfig
    hookpoints: tuple[str, ...]
    """Module paths whose activations are coded, `*` for one part of a path, `:input` behind one
    for what enters the module, `SOURCE->TARGET` for a transcoder. `outcrop hookpoints MODEL` lists them."""
    coder: CoderConfig = field(default_factory=CoderConfig)
    more_coders: Annotated[tuple[CoderConfig, ...], Suppress] = ()
    """Further settings of coders, each with a name of its own, trained beside the first; from a file only."""
    train: TrainConfig = field(default_factory=TrainConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    examples: ExamplesConfig = field(default_factory=ExamplesConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        _require(len(self.hookpoints) > 0, "no hookpoint is given; `outcrop hookpoints MODEL` lists them")
        names = [coder.name for coder in (self.coder, *self.more_coders)]
        _require(len({*names}) == len(names), f"the coders' names are {names}; each setting needs one of its own")
        _require(
            self.cache.window_tokens <= self.text.max_document_tokens,
            f"cache.window-tokens is {self.cache.window_tokens}, more than text.max-document-tokens, "
            f"{self.text.max_document_tokens}: no document would hold a window",
        )
        _require(
            not self.train.finetune or self.coder.path is not None,
            "train.finetune is set, but --coder names no coder to go on with",
        )


_ADAPTER: TypeAdapter[RunConfig] = TypeAdapter(RunConfig)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain types only, ready for YAML or JSON."""
    return _ADAPTER.dump_python(config, mode="json")


def from_dict(data: Any, origin: str) -> RunConfig:
    """The config in `data`; `origin` names the place it comes from in errors."""
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        lines = (
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']} (saw {e['input']!r})" for e in error.errors()
        )
        raise ConfigError(f"{origin} is not a config of outcrop. " + "; ".join(lines)) from error


def dump(config: RunConfig) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def load(path: Path) -> RunConfig:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return from_dict(data, str(path))
