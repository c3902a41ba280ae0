"""The values that travel between rooms. All are frozen.

Shapes in brackets: n tokens, k active, M latents per layer, L layers, w window length.
A *position* is the index of a token in the corpus; a *window* is a row of the fixed grid.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal
from urllib.parse import quote, unquote

import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from numpy import ndarray
from torch import Tensor

from outcrop.errors import ConfigError

Side = Literal["input", "output"]
Split = Literal["explain", "score"]
Stratum = Literal["same_token", "neighbour", "semantic", "random"]


@dataclass(frozen=True, order=True)
class Hookpoint:
    """A place in the language model: what enters or leaves one module.

    Written as the module's path, with `:input` behind it for the input side.
    """

    path: str
    side: Side = "output"

    def __str__(self) -> str:
        return self.path if self.side == "output" else f"{self.path}:input"

    @staticmethod
    def parse(text: str) -> Hookpoint:
        path, _, side = text.partition(":")
        match side:
            case "" | "output":
                return Hookpoint(path)
            case "input":
                return Hookpoint(path, "input")
        raise ConfigError(f"{text!r} has the side {side!r}; a hookpoint is a module path, with :input behind it or not")


Place = tuple[Hookpoint, Hookpoint]  # where a coder reads, and what it predicts


@dataclass(frozen=True, order=True)
class CoderKey:
    """Which coder: the name of its setting, where it reads, what it predicts, its seed."""

    setting: str
    source: Hookpoint
    target: Hookpoint
    seed: int

    @property
    def place(self) -> Place:
        return self.source, self.target

    @property
    def transcodes(self) -> bool:
        """Whether the coder predicts another place than it reads."""
        return self.source != self.target

    def __str__(self) -> str:
        """The file-safe form, `setting,source,target,seed`, each part percent-quoted."""
        parts = (self.setting, str(self.source), str(self.target), str(self.seed))
        return ",".join(quote(part, safe="") for part in parts)

    @staticmethod
    def parse(text: str) -> CoderKey:
        setting, source, target, seed = (unquote(part) for part in text.split(","))
        return CoderKey(setting, Hookpoint.parse(source), Hookpoint.parse(target), int(seed))


@dataclass(frozen=True, order=True)
class LatentId:
    """One latent of one coder; index in [0, L·M), layer = index // M."""

    coder: CoderKey
    index: int


def within_norm(x: Float[Tensor, "*b d"], max_norm: float | None) -> Bool[Tensor, "*b"]:
    """Which vectors are no attention sinks."""
    if max_norm is None:
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    return x.float().norm(dim=-1) <= max_norm


@dataclass(frozen=True)
class ActivationBatch:
    """Activations of eligible tokens at a coder's source and target, with their positions."""

    source: Float[Tensor, "n d_in"]
    target: Float[Tensor, "n d_out"]
    position: Int64[Tensor, "n"]

    def below(self, max_norm: float | None) -> ActivationBatch:
        """Without the tokens whose norm at the source makes them attention sinks."""
        if max_norm is None:
            return self
        keep = within_norm(self.source, max_norm)
        source = self.source[keep]
        target = source if self.target is self.source else self.target[keep]
        return ActivationBatch(source, target, self.position[keep.to(self.position.device)])


@dataclass(frozen=True)
class SparseLatents:
    """The codes of n tokens as CSR. A zero is never stored and never fires."""

    values: Float[Tensor, "nnz"]
    indices: Int[Tensor, "nnz"]
    indptr: Int64[Tensor, "n_plus_1"]
    n_latents: int


@dataclass(frozen=True)
class Vocabulary:
    """The bytes of every token, so that text can be shown without the tokenizer."""

    pieces: tuple[bytes, ...]

    def strings(self, tokens: Sequence[int] | ndarray) -> list[str]:
        """One string per token; their concatenation is the text.

        A character spread over several tokens stands with the last of them.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        strings = [decoder.decode(self.pieces[int(token)]) for token in tokens]
        if strings:
            strings[-1] += decoder.decode(b"", final=True)
        return strings

    def text(self, tokens: Sequence[int] | ndarray) -> str:
        return "".join(self.strings(tokens))


@dataclass(frozen=True)
class Window:
    """Consecutive eligible tokens of one document: a row of the grid, or what lies around a peak."""

    tokens: Int[ndarray, "w"]
    activations: Float32[ndarray, "w"]  # of the latent that the window is an example of
    context: int  # of the first token
    offset: int  # of the first token in its context
    document: int

    @cached_property
    def fires(self) -> Bool[ndarray, "w"]:
        return self.activations > 0


@dataclass(frozen=True)
class Example:
    """A window as an example of a latent: activating, with the quantile of its peak
    (1 the weakest … Q the strongest), or non-activating, with its stratum."""

    index: int  # among the examples of its latent, explain and score together
    row: int  # of the grid
    split: Split
    window: Window
    quantile: int | None = None
    stratum: Stratum | None = None
    source: int | None = None  # what made it a member of the stratum: trigger token, neighbour, or activating row
    distance: float | None = None  # of a neighbour or an activating row: 1 − similarity

    @property
    def activating(self) -> bool:
        return self.quantile is not None

    @property
    def trigger(self) -> int | None:
        """The trigger token of a same_token window."""
        return self.source if self.stratum == "same_token" else None


@dataclass(frozen=True)
class StratumShare:
    """How many of the non-firing grid windows a stratum holds, and what it could not supply."""

    stratum: Stratum
    share: float  # v_s, of all windows in which the latent does not fire
    n_windows: int
    shortfall: str | None = None


@dataclass(frozen=True)
class LatentExamples:
    """Everything that explainers and judges may see of one latent."""

    latent: LatentId
    firing_rate: float  # r, per eligible token
    context_rate: float  # π, per grid window
    explain: tuple[Example, ...]
    score: tuple[Example, ...]
    strata: tuple[StratumShare, ...]


@dataclass(frozen=True)
class TokenEvidence:
    """What the explain documents say of a latent token type by token type: all that a rule
    without context can know. `windows` are the grid windows of these documents."""

    latent: LatentId
    fired: Int64[ndarray, "types"]
    occurrences: Int64[ndarray, "types"]
    windows: Int[ndarray, "windows w"]
    fires: Bool[ndarray, "windows"]
    triggers: Int64[ndarray, "triggers"]  # the types that set it off (`latents.triggers`), by falling share
    pure: bool  # whether it is a pure token latent, of these types


FailureKind = Literal[
    "timeout",  # no answer in time
    "connection",  # refused, reset or closed
    "rate limit",  # HTTP 429, still after the retries
    "server",  # HTTP 5xx
    "refused",  # any other HTTP error
    "unreadable",  # an answer, but not one that can be read
    "empty",  # an answer without text
    "input",  # nothing could be asked
]
UNANSWERED: frozenset[FailureKind] = frozenset({"timeout", "connection", "rate limit", "server", "refused"})
"""Those behind which there may be an answer when it is asked again."""


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. A value, stored and counted; never an explanation, never a zero."""

    kind: FailureKind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Request:
    """A question to an LLM. With labels, the probabilities of these first words of the
    answer are wanted; without, a text of at most `max_tokens`, and with `numbers_up_to` the
    expected values of the numbers in it, from 0 to that."""

    messages: tuple[Message, ...]
    max_tokens: int
    labels: tuple[str, ...] = ()
    schema: str | None = None  # JSON schema of the answer, for servers that can hold to one
    numbers_up_to: int | None = None
    temperature: float = 0.0
    seed: int = 0

    @property
    def needs_probabilities(self) -> bool:
        return bool(self.labels) or self.numbers_up_to is not None

    def hash(self, model: str) -> str:
        """Of the messages, the sampling and the model's identity; 32 hexadecimal digits."""
        text = json.dumps([model, asdict(self)], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """An LLM's answer. `label_probabilities` stand in the order of the request's labels and
    are shares of the whole next-token distribution, `expected_numbers` in that of the numbers
    in the text; None where they are not wanted or the server gives none."""

    text: str
    label_probabilities: tuple[float, ...] | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float | None = None  # US$; None where no price is known
    expected_numbers: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Explanation:
    """What an explainer said of a latent, or why it said nothing."""

    latent: LatentId
    explainer: str
    source: str  # "all", or the quantile band that was shown
    text: str | None
    request: str  # hash; empty where no LLM was asked
    failure: Failure | None = None
    n_windows: int = 0  # that were shown
    n_tokens: int = 0  # in these windows
    reasoning: str | None = None  # what a chain of thought came before it; judges never see it
    tried: tuple[str, ...] = ()  # hashes of what was asked on the way to it: other rounds, and trials of them


RELATIONS = ("same", "broader", "narrower", "unrelated")


@dataclass(frozen=True)
class Relation:
    """How the first of two explanations of a latent, by the same explainer, relates to the second."""

    latent: LatentId
    explainer: str
    first: str  # the band that it explains
    second: str
    relation: str | None = None  # one of RELATIONS; None: failed
    probability: float | None = None
    cosine: float | None = None  # of their sentence embeddings
    request: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Judgement:
    """One scorer's word on one example, or why there is none.

    `explainer` and `source` name the explanation that was judged, or beside which the arm "other" (the control
    with another latent's explanation) stands; in the arm "none" (the control without any) and for scorers that
    need no explanation `explainer` is empty. Which arms there are, see `interp.scorers.judging`.
    """

    latent: LatentId
    scorer: str
    arm: str
    explainer: str
    source: str
    example: int
    probability: float | None = None
    predicted: bool | None = None
    request: str | None = None
    failure: Failure | None = None
    measured: tuple[float, ...] | None = None  # by scorers that give no yes or no; each says what it measures


@dataclass(frozen=True)
class LayerReconstruction:
    """One sparse layer of a stack, on held-out tokens."""

    fvu: float  # of the stack up to and including this layer
    l0: float
    norm_share: float  # Σ‖this layer's output‖² / Σ over layers
    dead_share: float | None  # not fired for `dead_after_tokens` tokens of training; None: not trained here
    unfired_share: float  # not fired on the held-out tokens


@dataclass(frozen=True)
class CrossEntropy:
    """Next-token loss in nats with something spliced in at the eligible positions."""

    n_tokens: int
    clean: float  # nothing
    coder: float  # the reconstruction
    zero: float  # zeros
    mean: float  # the mean activation
    kl: float  # KL(clean ‖ coder), mean over tokens

    @property
    def recovered(self) -> float:
        return (self.zero - self.coder) / (self.zero - self.clean)

    @property
    def recovered_from_mean(self) -> float:
        return (self.mean - self.coder) / (self.mean - self.clean)


@dataclass(frozen=True)
class Reconstruction:
    """How well a coder reconstructs held-out activations."""

    coder: CoderKey
    n_tokens: int
    dead_after_tokens: int | None  # None: not trained here
    trained_tokens: int
    gamma: float  # ‖μ‖ / (σ √d) of the source's activations
    effective_rank: float  # of their covariance, from 1 to d
    fvu: float
    l0: float
    layers: tuple[LayerReconstruction, ...]
    cross_entropy: CrossEntropy
