"""Every setting, as one frozen dataclass per stage and `RunConfig` over them.

A field's docstring is its help text. A config holds no runtime state. What is written to a
run directory as `config.yaml` is a `RunConfig`, and repeats the run.
"""

from outcrop.config.coder import Architecture, CoderConfig, Loss, Normalise, Optimizer, Read, Selection, TrainConfig
from outcrop.config.judge import JudgeConfig, Role
from outcrop.config.judging import ExplainConfig, Explainer, ReportConfig, ScoreConfig, Scorer, Where
from outcrop.config.latents import CacheConfig, ExamplesConfig, Flag, NeighbourMeasure, Sampler, SelectConfig, Statistic
from outcrop.config.run import RunConfig, dump, from_dict, load, to_dict
from outcrop.config.source import ModelConfig, TextConfig

__all__ = [
    "Architecture",
    "CacheConfig",
    "CoderConfig",
    "ExamplesConfig",
    "ExplainConfig",
    "Explainer",
    "Flag",
    "JudgeConfig",
    "Loss",
    "ModelConfig",
    "NeighbourMeasure",
    "Normalise",
    "Optimizer",
    "Read",
    "ReportConfig",
    "Role",
    "RunConfig",
    "Sampler",
    "ScoreConfig",
    "Scorer",
    "SelectConfig",
    "Selection",
    "Statistic",
    "TextConfig",
    "TrainConfig",
    "Where",
    "dump",
    "from_dict",
    "load",
    "to_dict",
]
