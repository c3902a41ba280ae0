"""How a database of a run is opened where it is only read."""

from __future__ import annotations

from pathlib import Path

from outcrop.errors import CorruptError


def to_read(path: Path, holds: str) -> str:
    """The URI to read it at, also on a disk that cannot be written, where nobody is at the database. CorruptError
    where there is none."""
    if not path.exists():
        raise CorruptError(
            f"there is no {path}, where the {holds} should be; put it back, or start a new run directory"
        )
    nobody = not path.with_name(path.name + "-wal").exists()
    return path.resolve().as_uri() + ("?immutable=1" if nobody else "?mode=ro")
