"""Where the measures of a training go besides `metrics.jsonl`, if that is asked for: wandb, TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from outcrop.errors import ConfigError

Track = Callable[[Mapping[str, Any]], None]


@contextmanager
def trackers(names: Sequence[str], directory: Path, config: Mapping[str, Any]) -> Iterator[Track]:
    """Within, a function that gives a record to every tracker; ConfigError where its package is missing."""
    with ExitStack() as stack:
        opened = [stack.enter_context(_OPEN[name](directory, config)) for name in names]

        def track(record: Mapping[str, Any]) -> None:
            for one in opened:
                one(record)

        yield track


def require(names: Sequence[str]) -> None:
    """ConfigError where a tracker's package is missing."""
    for name in names:
        _module(name)


@contextmanager
def _wandb(directory: Path, config: Mapping[str, Any]) -> Iterator[Track]:
    run = _module("wandb").init(project="outcrop", name=directory.name, dir=directory, config=dict(config))
    try:
        yield lambda record: run.log(scalars(record), step=record["step"])
    finally:
        run.finish()


@contextmanager
def _tensorboard(directory: Path, config: Mapping[str, Any]) -> Iterator[Track]:
    writer = _module("tensorboard").SummaryWriter(str(directory / "tensorboard"))

    def track(record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, record["step"])

    try:
        yield track
    finally:
        writer.close()


_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboardX"}
_OPEN = {"wandb": _wandb, "tensorboard": _tensorboard}


def scalars(record: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a record under `coder/name`, those of layers one by one."""
    found: dict[str, int | float] = {}
    for name, value in record.items():
        values = {f"{name}/{i}": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
        found |= {f"{record['coder']}/{n}": v for n, v in values.items() if isinstance(v, int | float)}
    return found


def _module(tracker: str) -> Any:
    package = _PACKAGES[tracker]
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(f"--train.track needs {package}, which is not installed: pip install {package}") from error
