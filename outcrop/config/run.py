"""All settings of a run, and the file that holds them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from tyro.conf import Suppress

from outcrop.config.coder import CoderConfig, TrainConfig
from outcrop.config.judge import JudgeConfig, Role
from outcrop.config.judging import ExplainConfig, ReportConfig, ScoreConfig
from outcrop.config.latents import CacheConfig, ExamplesConfig, SelectConfig
from outcrop.config.source import ModelConfig, TextConfig
from outcrop.config.strict import Strict, require
from outcrop.errors import ConfigError


@dataclass(frozen=True)
class RunConfig(Strict):
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

    def asks(self, stage: str) -> tuple[Role, ...]:
        """The language models that a stage asks."""
        match stage:
            case "explain" if self.explain.asking:
                return ("explainer", "judge") if "iterative" in self.explain.asking else ("explainer",)
            case "score" if self.score.asking or self.score.relate:
                return ("judge",)
            case _:
                return ()

    def __post_init__(self) -> None:
        require(len(self.hookpoints) > 0, "no hookpoint is given; `outcrop hookpoints MODEL` lists them")
        self._require_coders()
        self._require_training()
        self._require_examples()
        self._require_bands()

    @property
    def _coders(self) -> tuple[CoderConfig, ...]:
        return self.coder, *self.more_coders

    def _require_coders(self) -> None:
        names = [coder.name for coder in self._coders]
        require(len({*names}) == len(names), f"the coders' names are {names}; each setting needs one of its own")
        elsewhere = [coder.name for coder in self.more_coders if coder.path is not None]
        require(not elsewhere, f"more_coders has a path for {elsewhere}; trained coders are given by coder.path alone")

    def _require_training(self) -> None:
        ends = [name for name in ("prefix_losses", "multi_topk") if getattr(self.train, name)]
        ends += ["matryoshka"] * any(coder.matryoshka for coder in self._coders)
        require(
            self.train.loss == "fvu" or not ends,
            f"train.loss is {self.train.loss}, which has no part for {', '.join(ends)}; leave it out, or take fvu",
        )
        require(
            not self.train.finetune or self.coder.path is not None,
            "train.finetune is set, but --coder names no coder to go on with",
        )
        k_start = self.train.k_start
        for coder in self._coders:
            require(
                k_start is None or coder.path is not None or k_start <= coder.latents_per_layer,
                f"train.k-start is {k_start}, more than the {coder.latents_per_layer} latents of a layer",
            )
            require(
                self.train.start_within is None or not (coder.encoder_widths or coder.decoder_widths),
                "train.start-within is set, but behind dense layers latents have no place in the activations' space",
            )

    def _require_examples(self) -> None:
        require(
            self.cache.window_tokens <= self.text.max_document_tokens,
            f"cache.window-tokens is {self.cache.window_tokens}, more than text.max-document-tokens, "
            f"{self.text.max_document_tokens}: no document would hold a window",
        )
        require(
            self.examples.explain_windows == "grid" or self.examples.peak_offset < self.cache.window_tokens,
            f"examples.peak-offset is {self.examples.peak_offset}; the peak must stand within cache.window-tokens, "
            f"{self.cache.window_tokens}",
        )
        require(
            self.examples.neighbour_measure != "encoder" or not any(coder.encoder_widths for coder in self._coders),
            "examples.neighbour-measure is encoder, but encoder rows behind dense layers have no common space",
        )
        needed, there = self.score.intruder_windows - 1, self.examples.score_activating // self.examples.n_quantiles
        require(
            "intruder" not in self.score.scorers or there >= needed,
            f"the scorer intruder shows {needed} activating windows of one quantile, but there are {there}; raise "
            "examples.score-activating or lower score.intruder-windows",
        )

    def _require_bands(self) -> None:
        bands = "bands" in self.explain.explainers
        require(
            not self.score.relate or bands or self.score.explanations is not None,
            "score.relate compares explanations of activation bands, but explain.explainers has no bands",
        )
        require(
            not bands or self.examples.explain_sampler in ("quantiles", "random"),
            f"examples.explain-sampler is {self.examples.explain_sampler}, whose thirds are not those of all windows; "
            "the explainer bands needs quantiles or random",
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
        lines = (_told(".".join(map(str, one["loc"])), one) for one in error.errors())
        raise ConfigError(f"{origin} is not a config of outcrop: " + "; ".join(lines)) from error


def _told(name: str, error: ErrorDetails) -> str:
    match error["type"]:
        case "unexpected_keyword_argument":
            near = difflib.get_close_matches(name, _setting_names(), n=1)
            return f"there is no setting {name}" + (f" (the nearest is {near[0]})" if near else "")
        case "missing":
            return f"{name} is missing"
        case _:
            return f"{name or 'the file'}: {error['msg']} (saw {error['input']!r})"


def _setting_names() -> Iterator[str]:
    """Sections and settings, dotted."""
    for name, value in to_dict(RunConfig(ModelConfig(""), TextConfig(""), ("",))).items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)


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
