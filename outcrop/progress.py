"""How a stage tells the edge how far it is, without knowing what the edge looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

Advance = Callable[[int], None]


@runtime_checkable
class Progress(Protocol):
    """Opens one bar; the value it gives is called with the number of units done since."""

    def __call__(self, description: str, total: int, unit: str, done: int = 0) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(description: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """The progress of a stage that nobody watches."""
    yield lambda n: None
