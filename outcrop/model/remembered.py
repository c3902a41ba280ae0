"""What a base model read, kept in a file, so that who comes back reads nothing again.

nll  hash of model, precision, prefix and text as tokens → nats per token, NULL where there is none
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from outcrop.errors import CorruptError
from outcrop.model.likelihood import Reader

_VERSION = 1  # of how likelihoods are computed


class RememberingReader:
    """Gives from the file what is there, and lets the reader read the rest."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self._reader, self._path = reader, path
        self._model = [_VERSION, reader.lm.identity, str(reader.lm.module.dtype)]

    def mean_nll(self, prefix: str, texts: Sequence[str]) -> Float64[ndarray, "n"]:
        """As the reader's. CorruptError where the file is damaged."""
        try:
            with closing(sqlite3.connect(self._path)) as db, db:
                return self._read(db, prefix, texts)
        except sqlite3.OperationalError:  # a full disk, say: the file is as it was
            raise
        except sqlite3.DatabaseError as error:
            raise CorruptError(f"{self._path} is damaged ({error}). Remove it; what it held is read again.") from error

    def _read(self, db: sqlite3.Connection, prefix: str, texts: Sequence[str]) -> Float64[ndarray, "n"]:
        db.execute("CREATE TABLE IF NOT EXISTS nll (name BLOB PRIMARY KEY, nats REAL) WITHOUT ROWID")
        before = [*self._model, self._reader.prefix_tokens(prefix)]
        names = [hashlib.sha256(json.dumps([*before, self._reader.tokens(text)]).encode()).digest() for text in texts]
        rows = (db.execute("SELECT name, nats FROM nll WHERE name = ?", (name,)).fetchone() for name in names)
        known = dict(row for row in rows if row is not None)
        unknown = {name: text for name, text in zip(names, texts, strict=True) if name not in known}
        found = self._reader.mean_nll(prefix, [*unknown.values()])
        new = dict(zip(unknown, found.tolist(), strict=True))
        db.executemany("INSERT OR IGNORE INTO nll VALUES (?, ?)", new.items())
        known |= new
        return np.array([known[name] for name in names], dtype=np.float64)  # of NULL NaN again
