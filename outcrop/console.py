"""Progress bars and lines on the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from outcrop.progress import Advance

console = Console(stderr=True, highlight=False)


_LONGEST = 30  # characters of what is done


class _Rate(ProgressColumn):
    """Units per second of late: what was known already comes at once, and tells nothing of the rest."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["first"]
        rate = task.speed or (done / task.elapsed if task.elapsed else 0.0)
        speed = f"{rate:,.1f}/s" if rate >= 0.1 or not rate else f"{1 / rate:,.0f} s each"
        return Text(f"{task.completed:,.0f}/{task.total:,.0f} {task.fields['unit']}, {speed}")


@contextmanager
def bars(description: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """An `outcrop.progress.Progress` that draws one bar, with its rate and the remaining time."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=12),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as progress:
        what = description if len(description) <= _LONGEST else f"{description[: _LONGEST - 1]}…"
        task = progress.add_task(what, total=total, completed=done, unit=unit, first=done)
        yield lambda n: progress.advance(task, n)


def show(what: RenderableType) -> None:
    """A result, on the standard output."""
    Console(highlight=False).print(what)


def quiet() -> None:
    """No bars and warnings but our own."""
    from transformers.utils import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
