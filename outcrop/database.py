"""How a database of a run is opened where it is only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from outcrop.errors import CorruptError

T = TypeVar("T")


def to_read(path: Path, holds: str) -> str:
    """The URI to read it at, also on a disk that cannot be written, where nobody is at the database. CorruptError
    where there is none."""
    if not path.exists():
        raise CorruptError(
            f"there is no {path}, where the {holds} should be; put it back, or start a new run directory"
        )
    return path.resolve().as_uri() + ("?mode=ro" if _in_use(path) else "?immutable=1")


def unchanged(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives, read again where a writer came to a database that nobody was at when it was begun: what was
    opened as one that does not change may then be of two states."""
    while True:
        before = _state(path)
        try:
            found = read()
        except (sqlite3.DatabaseError, CorruptError):
            if not _came(path, before):
                raise
        else:
            if not _came(path, before):
                return found


def _came(path: Path, before: tuple[bool, int, int]) -> bool:
    """Whether a writer did, to where there was none."""
    in_use, *_ = before
    return not in_use and _state(path) != before


def _in_use(path: Path) -> bool:
    """A writer has what is not yet in the file in one beside it."""
    return path.with_name(path.name + "-wal").exists()


def _state(path: Path) -> tuple[bool, int, int]:
    """Changes as soon as a writer opens the database; that of one that is not there never does."""
    if not path.exists():
        return False, 0, 0
    about = path.stat()
    return _in_use(path), about.st_mtime_ns, about.st_size
