"""All settings of a run, and the file that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError
from tyro.conf import Suppress

from outcrop.config.coder import CoderConfig, TrainConfig
from outcrop.config.judging import ExplainConfig, JudgeConfig, ReportConfig, ScoreConfig
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

    def __post_init__(self) -> None:
        require(len(self.hookpoints) > 0, "no hookpoint is given; `outcrop hookpoints MODEL` lists them")
        names = [coder.name for coder in (self.coder, *self.more_coders)]
        require(len({*names}) == len(names), f"the coders' names are {names}; each setting needs one of its own")
        require(
            self.cache.window_tokens <= self.text.max_document_tokens,
            f"cache.window-tokens is {self.cache.window_tokens}, more than text.max-document-tokens, "
            f"{self.text.max_document_tokens}: no document would hold a window",
        )
        require(
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
