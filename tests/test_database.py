"""A database that is read while a writer comes to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from outcrop.database import to_read, unchanged


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "results.sqlite"
    write(path, 1)
    assert "immutable" in to_read(path, "results")
    return path


def write(path: Path, n: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")
        db.execute("INSERT INTO numbers VALUES (?)", (n,))


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(to_read(path, "results"), uri=True)) as db:
        return [n for (n,) in db.execute("SELECT n FROM numbers")]


def test_what_was_written_in_between_is_read_anew(database: Path) -> None:
    seen = list[list[int]]()

    def read() -> list[int]:
        seen.append(numbers(database))
        if len(seen) == 1:
            write(database, 2)
        return seen[-1]

    assert unchanged(database, read) == [1, 2]
    assert seen == [[1], [1, 2]]


def test_what_cannot_be_read_is_told_unless_a_writer_came(database: Path) -> None:
    calls = []

    def read() -> int:
        calls.append(1)
        if len(calls) == 1:
            write(database, 2)
        if len(calls) < 3:
            raise sqlite3.DatabaseError("malformed")
        return 0

    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        unchanged(database, read)
    assert len(calls) == 2


def test_a_writer_that_is_there_already_is_no_reason_to_read_twice(database: Path) -> None:
    calls = []
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("INSERT INTO numbers VALUES (2)")

        def read() -> list[int]:
            calls.append(1)
            writer.execute("INSERT INTO numbers VALUES (3)")
            return numbers(database)

        assert unchanged(database, read) == [1, 2, 3] and len(calls) == 1
