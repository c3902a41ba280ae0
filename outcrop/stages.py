"""What each stage of a run depends on, what it leaves behind, and what is therefore stale.

A stage is stale when it was made with other settings than those now wanted, or when a stage
before it is stale. Nothing else makes it so: not its age, not the presence of its files.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outcrop.config import Role, RunConfig, to_dict
from outcrop.errors import StaleError
from outcrop.run import RunDirectory, StageMark

ORDER = ("tokens", "train", "cache", "examples", "explain", "score", "report")


# The settings of each stage by their names in the config. Where the judge is, and how it is called,
# changes no answer: which model answers is asked of the judge itself.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "tokens": (
        "model.name",
        "model.revision",
        "text",
        "coder.path",  # a given coder needs no text for training
        "train.tokens",
        "train.finetune",
        "train.held_out_tokens",
        "cache.tokens",
        "seed",
    ),
    "train": ("model.dtype", "model.device", "model.batch_tokens", "hookpoints", "coder", "more_coders", "train"),
    "cache": ("cache.shard_tokens",),
    "examples": ("cache.window_tokens", "select", "examples"),
    "explain": ("explain",),
    "score": ("score",),
    "report": ("report",),
}

# Where measures and activations are kept beside the run.
_NO_RESULT = {"train.track", "train.activations"}

_NEEDS: dict[str, tuple[str, ...]] = {
    "tokens": (),
    "train": ("tokens",),
    "cache": ("train",),
    "examples": ("cache",),
    "explain": ("examples",),
    "score": ("explain",),
    "report": ("score",),
}


@dataclass(frozen=True)
class Staleness:
    """Why a stage cannot be kept."""

    stage: str
    reason: str

    def __str__(self) -> str:
        return f"{self.stage} ({self.reason})"


def settings_of(stage: str, config: RunConfig) -> dict[str, Any]:
    """The settings that a stage's results depend on, flat: dotted name → value."""
    everything = _flat(to_dict(config))
    wanted = _SETTINGS[stage]
    return {
        name: _with_content(value) if name == "score.explanations" and value else value
        for name, value in everything.items()
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in wanted) and name not in _NO_RESULT
    }


def _with_content(file: str) -> str:
    """A file by its name and what is in it: another content makes a stage stale, too."""
    path = Path(file)
    if not path.is_file():
        return file
    return f"{file}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def up_to(last: str) -> tuple[str, ...]:
    return ORDER[: ORDER.index(last) + 1]


def stale_stages(
    config: RunConfig, marks: Mapping[str, StageMark], other_models: Callable[[StageMark], Mapping[Role, str]]
) -> list[Staleness]:
    """The stages of a run directory that its marks show to be made otherwise than `config` wants.

    `other_models(mark)` gives the identities of the language models that would do the stage now, where others did it.
    """
    stale: list[Staleness] = []
    grows = cache_grows(config, marks)
    for stage in ORDER:
        mark = marks.get(stage)
        if mark is None or (stage == "tokens" and grows):
            continue
        upstream = [s.stage for s in stale if s.stage in _NEEDS[stage]]
        changes = differences(mark.settings, settings_of(stage, config))
        changes += [f"its {role} was {mark.models[role]}, is {now}" for role, now in other_models(mark).items()]
        if changes:
            stale.append(Staleness(stage, "; ".join(changes)))
        elif stage == "examples" and grows:
            stale.append(Staleness(stage, "because the cache grows"))
        elif upstream:
            stale.append(Staleness(stage, f"because of {', '.join(upstream)}"))
    return stale


def cache_grows(config: RunConfig, marks: Mapping[str, StageMark]) -> bool:
    """Whether all that is new of the text is that more of it shall be cached: what was cached then stays."""
    tokens = marks.get("tokens")
    if not (tokens and tokens.complete):
        return False
    now = settings_of("tokens", config)
    changed = [name for name in now if now[name] != tokens.settings.get(name)]
    return changed == ["cache.tokens"] and now["cache.tokens"] > tokens.settings["cache.tokens"]


def refuse(stale: list[Staleness], directory: RunDirectory) -> None:
    """Raise StaleError if anything is stale."""
    if stale:
        raise StaleError(
            f"{directory.path} was made with other settings: {', '.join(map(str, stale))}. "
            "--fresh makes these stages anew and keeps the others; another --out starts a new run."
        )


def clear(stage: str, directory: RunDirectory) -> None:
    """Remove the files that a stage leaves behind. (Its tables it empties itself.)"""
    for path in _files(stage, directory):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def left_nothing(stage: str, directory: RunDirectory) -> bool:
    """Whether there is no file of this stage."""
    return not any(path.is_file() for part in _files(stage, directory) for path in (part, *part.rglob("*")))


def _files(stage: str, directory: RunDirectory) -> tuple[Path, ...]:
    match stage:
        case "tokens":
            return (directory.tokens,)
        case "train":
            return (directory.checkpoints, directory.coders, directory.metrics)
        case "cache":
            return (directory.cache, directory.statistics)
        case "report":
            return (directory.report, directory.tables)
        case _:
            return ()


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{_flag(name)} was {_shown(before.get(name))}, is {_shown(now.get(name))}" for name in names]


def _flag(name: str) -> str:
    """As the command line calls a setting."""
    bare = {"model.name": "model", "text.path": "text", "coder.path": "coder"}
    return bare.get(name, name.replace("_", "-"))


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
