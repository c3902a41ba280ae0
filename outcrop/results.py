"""The results database (`schema`), in SQLite (WAL), as Python's values and as columns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from adbc_driver_sqlite import StatementOptions, dbapi

from outcrop.database import to_read
from outcrop.errors import CorruptError
from outcrop.schema import SCHEMA, SCHEMA_VERSION
from outcrop.types import CoderKey, Explanation, Failure, Judgement, LatentExamples, LatentId, Relation, StratumShare

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class CoderRow:
    """What was cached of one coder."""

    coder: CoderKey
    n_layers: int
    latents_per_layer: int
    window_tokens: int
    n_tokens: int
    n_excluded_tokens: int
    n_off_grid_tokens: int
    n_windows: int
    n_documents: int


@dataclass(frozen=True)
class LatentRow:
    """One line of the `latents` table; counts and rates as METRICS defines them."""

    latent: LatentId
    layer: int
    prefix: int
    n_fired: int
    n_windows: int
    firing_rate: float
    context_rate: float
    mean_activation: float | None
    max_activation: float | None
    context_dependence: float | None
    context_dependence_coverage: float | None
    dense: bool
    positional: bool
    pure_token: bool
    rare: bool
    selection_probability: float | None
    trigger: str | None


Answered = Literal["explanations", "judgements", "relations"]  # tables whose rows may be failures


class Results:
    """The database of one run. Writers replace what a stage wrote before; readers give columns."""

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        """Without a path, in a temporary file that is gone when this is closed."""
        self._read_only = read_only
        with ExitStack() as resources:
            self._path = path or Path(resources.enter_context(TemporaryDirectory(prefix="outcrop-")), "results.sqlite")
            where = to_read(self._path, "results") if read_only else self._path
            self._db = resources.enter_context(closing(sqlite3.connect(where, uri=read_only, isolation_level=None)))
            try:
                self._open(self._path, read_only)
            except sqlite3.OperationalError:  # a full disk, say: the file is as it was
                raise
            except sqlite3.DatabaseError as error:
                raise CorruptError(f"{path} is no database of results ({error}). Start a new run directory.") from error
            self._resources = resources.pop_all()

    def _open(self, path: Path, read_only: bool) -> None:
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not read_only:
            self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise CorruptError(
                f"{path} has schema version {version}, expected {SCHEMA_VERSION}: "
                "it was written by another version of outcrop. Start a new run directory."
            )

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("UPDATE changes SET n = n + 1")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def clear(self, *tables: str) -> None:
        """Empty these tables in one transaction."""
        with self._transaction() as db:
            for table in tables:
                db.execute(f"DELETE FROM {table}")

    def add_coder(self, coder: CoderRow, latents: Iterable[LatentRow]) -> None:
        with self._transaction() as db:
            _insert(db, "coders", [_cells(coder)])
            _insert(db, "latents", map(_cells, latents))

    def add_examples(self, examples: Iterable[LatentExamples]) -> None:
        with self._transaction() as db:
            for latent in examples:
                key = _cell(latent.latent)
                _insert(db, "strata", ((*key, *_cells(share)) for share in latent.strata))
                _insert(
                    db,
                    "examples",
                    (
                        (
                            *key,
                            e.index,
                            e.split,
                            e.row,
                            e.window.document,
                            e.quantile,
                            e.stratum,
                            e.source,
                            e.distance,
                            *of,
                        )
                        for e in (*latent.explain, *latent.score)
                        for of in [(float(e.window.activations.max()), float(e.window.activations.sum()))]
                    ),
                )

    def drawn(self) -> set[tuple[str, int, int, int]]:
        """Coder, latent, example and row of every window."""
        return set(self._db.execute("SELECT coder, latent, example, row FROM examples"))

    def add_explanations(self, explanations: Iterable[Explanation]) -> None:
        with self._transaction() as db:
            _insert(db, "explanations", map(_cells, explanations))

    def add_judgements(self, judgements: Iterable[Judgement]) -> None:
        with self._transaction() as db:
            _insert(db, "judgements", map(_cells, judgements))

    def add_relations(self, relations: Iterable[Relation]) -> None:
        with self._transaction() as db:
            _insert(db, "relations", map(_cells, relations))

    def keep_explainers(self, explainers: Sequence[str]) -> None:
        """Forget the explanations by others."""
        marks = ",".join("?" * len(explainers))
        with self._transaction() as db:
            db.execute(f"DELETE FROM explanations WHERE explainer NOT IN ({marks})", tuple(explainers))

    def explanations(self, latent: LatentId | None = None) -> list[Explanation]:
        """Of one latent, by default of all."""
        of_latent = "" if latent is None else "WHERE coder = ? AND latent = ?"
        rows = self._db.execute(
            f"SELECT * FROM explanations {of_latent} ORDER BY coder, latent, explainer, source",
            () if latent is None else _cell(latent),
        )
        return [_explanation(*row) for row in rows]

    def failed_requests(self, *tables: str) -> set[tuple[str, str]]:
        """The hashes of the requests behind the failures in tables, of those that were asked at all, and the kinds of
        the failures."""
        failed = "SELECT DISTINCT request, failure FROM {} WHERE failure IS NOT NULL AND request != ''"
        return {row for table in tables for row in self._db.execute(failed.format(table))}

    def outcomes(self, table: Answered) -> dict[str, int]:
        """How many rows of a table by kind of failure, the commonest first; empty where there is none."""
        query = f"SELECT COALESCE(failure, ''), COUNT(*) AS n FROM {table} GROUP BY 1 ORDER BY n DESC"
        return dict(self._db.execute(query).fetchall())

    @property
    def changes(self) -> int:
        """How often the tables were written to."""
        return int(self._db.execute("SELECT n FROM changes").fetchone()[0])

    def number(self, name: str, query: str) -> None:
        """A temporary table of this name: the rows of a query, numbered from 0 in its order as `id`."""
        with self._bulk.cursor() as cursor:
            for connection in (self._db, cursor):
                connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
                connection.execute(
                    f"CREATE TEMP TABLE {name} AS SELECT ROW_NUMBER() OVER () - 1 AS id, * FROM ({query})"
                )

    def numbers(self, query: str, types: Mapping[str, type], parameters: tuple[Any, ...] = ()) -> dict[str, np.ndarray]:
        """A query's result by column, for queries of many rows whose columns are numbers, none NULL."""
        with self._bulk.cursor() as cursor:
            cursor.adbc_statement.set_options(**{StatementOptions.BATCH_ROWS.value: _BATCH_ROWS})
            cursor.execute(query, parameters)
            table = cursor.fetch_arrow_table()
        return {name: table[name].to_numpy().astype(kind) for name, kind in types.items()}

    @cached_property
    def _bulk(self) -> dbapi.Connection:
        """A second connection, which reads without making a Python object of every cell. Who only reads sees one state
        of the database through both, whoever writes meanwhile."""
        while True:
            with ExitStack() as opened:
                address = to_read(self._path, "results")
                other = opened.enter_context(dbapi.connect(address, autocommit=not self._read_only))
                if self._read_only:
                    self._db.execute("BEGIN")
                if not self._read_only or _changes(other) == self.changes:
                    self._resources.push(opened.pop_all())
                    return other
            self._db.execute("ROLLBACK")

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Every row of a table or view, by its key: for comparing two runs."""
        return sorted(self._db.execute(f"SELECT * FROM {table}").fetchall(), key=repr)

    def columns(
        self, query: str, parameters: tuple[Any, ...] = (), *, text: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """A query's result by column. NULL is None in a column of text and NaN in one of numbers; the columns named
        are of text even where every value is NULL. ValueError where there is no such column."""
        cursor = self._db.execute(query, parameters)
        names = [column[0] for column in cursor.description]
        if unknown := {*text} - {*names}:
            raise ValueError(f"{', '.join(sorted(unknown))} is no column of the result; there are {', '.join(names)}")
        columns = list(zip(*cursor.fetchall(), strict=True)) or [()] * len(names)
        return {name: _column(values, name in text) for name, values in zip(names, columns, strict=True)}


def records(table: Mapping[str, np.ndarray], *names: str) -> list[tuple[Any, ...]]:
    """The rows of some columns, by default of all, as Python's own values."""
    return list(zip(*(table[name].tolist() for name in names or table), strict=True))


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Rows in the order of the table's columns; a row takes the place of one with its key."""
    n_columns = len(db.execute(f"PRAGMA table_info({table})").fetchall())
    db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * n_columns)})", rows)


def _changes(connection: dbapi.Connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT n FROM changes")
        return int(cursor.fetch_arrow_table()["n"][0].as_py())


def _explanation(
    coder: str, latent: int, explainer: str, source: str, text: str | None, request: str, *rest: Any
) -> Explanation:
    """From a row of its table."""
    failure, detail, n_windows, n_tokens, reasoning, tried = rest
    why = Failure(failure, detail) if failure else None
    about = LatentId(CoderKey.parse(coder), latent), explainer, source
    return Explanation(*about, text, request, why, n_windows, n_tokens, reasoning, tuple(json.loads(tried)))


def _cells(row: CoderRow | LatentRow | StratumShare | Explanation | Judgement | Relation) -> tuple[Any, ...]:
    """A value as a row of its table, whose columns stand in the order of its fields."""
    return tuple(chain.from_iterable(_cell(getattr(row, field.name), field.name) for field in fields(row)))


def _cell(value: Any, name: str = "") -> tuple[Any, ...]:
    match value:
        case LatentId(coder, index):
            return str(coder), index
        case CoderKey():
            return (str(value),)
        case Failure(kind, detail):
            return kind, detail
        case None if name == "failure":
            return None, None
        case tuple():
            return (json.dumps(value),)
        case _:
            return (value,)


def _column(values: Sequence[Any], of_text: bool) -> np.ndarray:
    kinds = {*map(type, values)}
    if of_text or str in kinds:
        return np.array(values, dtype=object)
    return np.array(values, dtype=np.float64 if kinds & {type(None), float} else np.int64)
