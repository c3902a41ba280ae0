"""Explaining, scoring and reporting."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from outcrop.config.latents import Flag
from outcrop.config.strict import Strict, require

Explainer = Literal["contrastive", "default", "iterative", "output", "bands", "single_token", "token_rule"]
Scorer = Literal["detection", "fuzzing", "intruder", "embedding", "surprisal", "simulation"]

# Those that ask no language model.
TOKEN_RULES: tuple[Explainer, ...] = ("single_token", "token_rule")
MEASURING: tuple[Scorer, ...] = ("embedding", "surprisal")


@dataclass(frozen=True)
class ExplainConfig(Strict):
    """The explainers, and what they may say."""

    explainers: tuple[Explainer, ...] = ("contrastive",)
    """Which of them, or none: default (activating windows alone), contrastive (beside non-activating ones), bands (one
    explanation from each third of the activating windows by peak), single_token (the tokens of pure token latents),
    iterative (explains, tries it on windows of its own, and explains again with the mistakes), output (with the tokens
    that the latent promotes), token_rule (the trigger tokens; asks nothing)."""
    max_tokens: int = 32
    """Length of an explanation, in tokens of the explainer."""
    reasoning_tokens: int = 0
    """How much the explainer may think aloud before it; none by default. It is kept apart from the explanation."""
    rounds: int = 2
    """How often the iterative explainer explains."""
    n_promoted: int = 10
    """Promoted tokens that the explainer `output` is shown."""

    @property
    def asking(self) -> tuple[Explainer, ...]:
        """The explainers that ask a language model."""
        return tuple(name for name in self.explainers if name not in TOKEN_RULES)

    @property
    def most_tokens(self) -> int:
        """Of an answer, what was thought aloud included."""
        return self.reasoning_tokens + self.max_tokens

    def __post_init__(self) -> None:
        require(
            len({*self.explainers}) == len(self.explainers), f"explain.explainers are {self.explainers}; name each once"
        )
        for name, least in (("max_tokens", 1), ("reasoning_tokens", 0), ("rounds", 1), ("n_promoted", 1)):
            value = getattr(self, name)
            require(value >= least, f"explain.{name.replace('_', '-')} is {value}; it must be at least {least}")


@dataclass(frozen=True)
class ScoreConfig(Strict):
    """The scorers, and what stands beside their scores. The token baseline is always there."""

    scorers: tuple[Scorer, ...] = ("detection",)
    """Which of them: detection, fuzzing, intruder, embedding, surprisal, simulation."""
    controls: tuple[Literal["none", "other"], ...] = ("none", "other")
    """Judge the same windows without any explanation, and by that of another latent of similar firing rate."""
    tell_base_rate: bool = False
    """Judge them again by a judge that is told how common such windows are."""
    windows_per_prompt: int = 1
    """Windows that one question of detection or fuzzing shows. With several, a window sees what was said of others."""
    intruder_windows: int = 5
    """Windows of a question of intruder, of which one does not belong."""
    simulation_windows: int = 20
    """Windows of each latent that are simulated, half of them activating: each costs a long answer."""
    relate: bool = False
    """The judge says of each two of a latent's band explanations whether one is the same, broader, narrower or
    unrelated; with an embedder, how near they are is measured, too."""
    explanations: Path | None = None
    """Explanations that people or other tools wrote, to be scored, too: JSON lines with latent and text."""
    embedder: str | None = None
    """A sentence-transformers model (directory or hub name), for the scorer embedding and for `relate`."""
    base_model: str | None = None
    """A transformers model (directory or hub name), for the scorer surprisal."""

    @property
    def asking(self) -> tuple[Scorer, ...]:
        """The scorers that ask a language model."""
        return tuple(name for name in self.scorers if name not in MEASURING)

    def __post_init__(self) -> None:
        require(len({*self.scorers}) == len(self.scorers), f"score.scorers are {self.scorers}; name each once")
        for name, least in (("windows_per_prompt", 1), ("intruder_windows", 2), ("simulation_windows", 1)):
            value = getattr(self, name)
            require(value >= least, f"score.{name.replace('_', '-')} is {value}; it must be at least {least}")
        require(
            self.intruder_windows <= 9,
            f"score.intruder-windows is {self.intruder_windows}; the judge names one by a digit, so 9 are the most",
        )
        for scorer, name in (("embedding", "embedder"), ("surprisal", "base_model")):
            missing = scorer in self.scorers and getattr(self, name) is None
            require(not missing, f"the scorer {scorer} needs a model; name it with --score.{name.replace('_', '-')}")


@dataclass(frozen=True)
class ReportConfig(Strict):
    """The report."""

    confidence: float = 0.95
    """Coverage of the intervals."""

    def __post_init__(self) -> None:
        require(0 < self.confidence < 1, f"report.confidence is {self.confidence}; it must lie between 0 and 1")


@dataclass(frozen=True)
class Where(Strict):
    """Which latents a report is about."""

    hookpoint: str | None = None
    """Those whose coder reads this hookpoint."""
    layers: tuple[int, ...] = ()
    """Those of these layers of a stack, counted from 0."""
    prefixes: tuple[int, ...] = ()
    """Those whose smallest matryoshka prefix is one of these, counted from 0."""
    flags: tuple[Flag, ...] = ()
    """Those with all of these flags: dense, positional, pure_token."""
    min_rate: float = 0.0
    """Least firing rate, per token."""
    max_rate: float = 1.0
    """Largest firing rate, per token."""

    def __post_init__(self) -> None:
        require(
            0 <= self.min_rate <= self.max_rate <= 1,
            f"where.min-rate is {self.min_rate} and where.max-rate {self.max_rate}; expected 0 ≤ min ≤ max ≤ 1",
        )

    def __str__(self) -> str:
        """What is asked for, as the flags say it."""
        asked = ((one.name, getattr(self, one.name)) for one in fields(self) if getattr(self, one.name) != one.default)
        return "; ".join(f"{name.replace('_', '-')} {_listed(value)}" for name, value in asked) or "any"


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
