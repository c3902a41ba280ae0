"""The store of LLM replies, in SQLite (WAL): request hash → raw reply, or the failure.

    parts    the content of every message, stored once
    replies  the request as references to parts and its sampling, and what came of it

The file is its own, so that several runs can share it; several processes may write at once.
A commit is in the operating system's hands when `add_many` returns, so a killed process loses
nothing. A stored failure is a record, not an answer: the next run asks again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outcrop.database import to_read
from outcrop.errors import CorruptError, RunError
from outcrop.types import Failure, Message, Reply, Request

SCHEMA_VERSION = 3

_BUSY_SECONDS = 60.0  # how long a writer waits for the others

_SCHEMA = (
    """CREATE TABLE parts (
      part INTEGER PRIMARY KEY, role TEXT NOT NULL, content TEXT NOT NULL, hash BLOB NOT NULL UNIQUE
    )""",
    """CREATE TABLE replies (
      request TEXT PRIMARY KEY, model TEXT NOT NULL,
      parts TEXT NOT NULL,               -- JSON list
      labels TEXT NOT NULL,              -- JSON list
      schema TEXT,                       -- JSON schema of the answer, if one was asked for
      numbers_up_to INTEGER,             -- the largest, if expected values of numbers were asked for
      max_tokens INTEGER NOT NULL, temperature REAL NOT NULL, seed INTEGER NOT NULL,
      text TEXT, label_probabilities TEXT, expected_numbers TEXT,
      prompt_tokens INTEGER, completion_tokens INTEGER, seconds REAL,
      cost REAL,                         -- US$; NULL where no price was known
      failure TEXT, failure_detail TEXT,
      CHECK ((text IS NULL) != (failure IS NULL))
    ) WITHOUT ROWID""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

# An answer is never replaced: runs that share the file must read the same one.
_INSERT = """INSERT INTO replies VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
  ON CONFLICT (request) DO UPDATE SET
    text = excluded.text, label_probabilities = excluded.label_probabilities,
    expected_numbers = excluded.expected_numbers,
    prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
    seconds = excluded.seconds, cost = excluded.cost,
    failure = excluded.failure, failure_detail = excluded.failure_detail
  WHERE replies.failure IS NOT NULL"""

_TOTALS = """SELECT model, COUNT(*) AS n_requests, COUNT(failure) AS n_failed,
  COALESCE(SUM(prompt_tokens), 0) AS prompt_tokens, COALESCE(SUM(completion_tokens), 0) AS completion_tokens,
  COALESCE(SUM(seconds), 0.0) AS seconds,
  CASE WHEN COUNT(cost) = COUNT(text) AND COUNT(text) > 0 THEN SUM(cost) END AS cost
  FROM replies GROUP BY model ORDER BY model"""


class Replies:
    """What LLMs answered, by request hash. May be used from several threads and processes."""

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        self._lock, self._path = threading.Lock(), path
        where = to_read(Path(path), "replies") if read_only else path
        options: dict[str, Any] = {"timeout": _BUSY_SECONDS, "isolation_level": None, "check_same_thread": False}
        try:
            self._db = sqlite3.connect(where, uri=read_only, **options)
        except sqlite3.OperationalError as error:
            raise RunError(
                f"{path} cannot be opened as a store of replies ({error}). "
                "Expected such a file, or a place for one in a folder that exists."
            ) from error
        try:
            self._check(path) if read_only else self._open(path)
        except sqlite3.OperationalError:
            self._db.close()
            raise
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise CorruptError(
                f"{path} cannot be used as a store of replies ({error}). "
                "Move it away; what it held will be asked again."
            ) from error
        except CorruptError:
            self._db.close()
            raise

    def _open(self, path: Path | str) -> None:
        _enter_wal(self._db)
        self._db.execute("BEGIN IMMEDIATE")  # of processes that start together, one writes the schema
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA:
                self._db.execute(statement)
        self._db.execute("COMMIT")
        self._check(path)

    def _check(self, path: Path | str) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise CorruptError(
                f"{path} has schema version {version}, expected {SCHEMA_VERSION}: it was written by another "
                "version of outcrop. Move it away; what it held will be asked again."
            )

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Replies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, request: str) -> Reply | None:
        """The answer to the request with this hash; None if it failed or was never asked."""
        with self._lock:
            row = self._db.execute(
                "SELECT text, label_probabilities, prompt_tokens, completion_tokens, seconds, cost, expected_numbers "
                "FROM replies WHERE request = ? AND failure IS NULL",
                (request,),
            ).fetchone()
        if row is None:
            return None
        text, probabilities, prompt_tokens, completion_tokens, seconds, cost, numbers = row
        measured = prompt_tokens, completion_tokens, seconds, cost
        return Reply(text, _numbers(probabilities), *measured, _numbers(numbers))

    def cut_off(self, requests: Iterable[str]) -> int:
        """How many of these were answered with as many tokens as they might be."""
        query = "SELECT completion_tokens >= max_tokens FROM replies WHERE request = ? AND failure IS NULL"
        with self._reading():
            return sum((self._db.execute(query, (one,)).fetchone() or (0,))[0] for one in requests)

    def totals(self) -> list[dict[str, Any]]:
        """What was asked of each model so far: model, n_requests, n_failed, prompt_tokens, completion_tokens, seconds,
        and the cost in US$, None where a price is not known."""
        with self._reading():
            cursor = self._db.execute(_TOTALS)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def prompt(self, request: str) -> tuple[Message, ...]:
        """The messages of a request, to be shown; KeyError if it was never asked."""
        with self._reading():
            row = self._db.execute("SELECT parts FROM replies WHERE request = ?", (request,)).fetchone()
            if row is None:
                raise KeyError(request)
            find = "SELECT role, content FROM parts WHERE part = ?"
            found = [self._db.execute(find, (part,)).fetchone() for part in json.loads(row[0])]
        return tuple(Message(role, content) for role, content in found)

    def about(self, request: str) -> dict[str, Any] | None:
        """The row of a request, with its raw answer or its failure; None if it was never asked."""
        with self._reading():
            cursor = self._db.execute("SELECT * FROM replies WHERE request = ?", (request,))
            names, row = [column[0] for column in cursor.description], cursor.fetchone()
        return None if row is None else dict(zip(names, row, strict=True))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """CorruptError where the file turns out to be damaged."""
        with self._lock:
            try:
                yield
            except sqlite3.DatabaseError as error:
                raise CorruptError(f"{self._path} is damaged ({error})") from error

    def add_many(self, answers: Iterable[tuple[str, str, Request, Reply | Failure]]) -> None:
        """Store (hash, model, request, answer) of each, in one transaction."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for name, model, request, answer in answers:
                    self._db.execute(_INSERT, self._row(name, model, request, answer))
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _row(self, name: str, model: str, request: Request, answer: Reply | Failure) -> tuple[object, ...]:
        parts = json.dumps([self._part(message) for message in request.messages])
        sampling = (request.schema, request.numbers_up_to, request.max_tokens, request.temperature, request.seed)
        return (name, model, parts, json.dumps(request.labels), *sampling, *_answer_columns(answer))

    def _part(self, message: Message) -> int:
        key = hashlib.sha256(f"{message.role}\0{message.content}".encode()).digest()
        found = self._db.execute("SELECT part FROM parts WHERE hash = ?", (key,)).fetchone()
        if found:
            return int(found[0])
        values = (message.role, message.content, key)
        row = self._db.execute("INSERT INTO parts (role, content, hash) VALUES (?,?,?) RETURNING part", values)
        return int(row.fetchone()[0])


def _answer_columns(answer: Reply | Failure) -> tuple[object, ...]:
    if isinstance(answer, Failure):
        return (None, None, None, None, None, None, None, answer.kind, answer.detail)
    numbers = (_listed(answer.label_probabilities), _listed(answer.expected_numbers))
    measured = (answer.prompt_tokens, answer.completion_tokens, answer.seconds, answer.cost)
    return (answer.text, *numbers, *measured, None, None)


def _listed(numbers: tuple[float, ...] | None) -> str | None:
    return None if numbers is None else json.dumps(numbers)


def _numbers(listed: str | None) -> tuple[float, ...] | None:
    return None if listed is None else tuple(json.loads(listed))


def _enter_wal(db: sqlite3.Connection) -> None:
    """Several processes that create the file at once collide here, past SQLite's own waiting."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
