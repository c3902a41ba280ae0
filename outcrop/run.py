"""The run directory: what is in it, what is complete, and how a file gets there whole.

    config.yaml      the complete config that repeats the run
    manifest.json    stage → the settings it was made with, and whether it is complete
    tokens/          the corpus of each part
    train/           checkpoints while training
    coders/KEY/      cfg.json, sae.safetensors, reconstruction.json
    cache/KEY/       shards, and what was counted in each
    semantic/        sentence embeddings of the windows, where they were asked for
    statistics.parquet  every latent's statistics, where they were asked for
    results.sqlite   what was found
    replies.sqlite   what was asked of language models, and answered
    likelihoods.sqlite  what the base model of surprisal read, where it was asked for
    metrics.jsonl    held-out measures, as training went
    tables.json      of which results the tables in report/ were made
    report/          summary.json, index.html, figures; latents, scores, scorers, bands as Parquet

A file is written under a temporary name, flushed, and renamed; a stage is marked complete only
after its files are there. Presence of a file says nothing: the manifest does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from outcrop.config import Role
from outcrop.errors import CorruptError, RunError

_LOCK, _TRIES = ".lock", 3
_VERSION = 3  # of the manifest


def write_atomically(path: Path, data: bytes) -> None:
    """The whole file or none of it."""
    temporary = unfinished(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """The same of a table; `options` are those of `pyarrow.parquet.write_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    write_atomically(path, sink.getvalue().to_pybytes())


def unfinished(path: Path) -> Path:
    """Where a file or a folder is written before it is moved to its place."""
    return path.with_name(f".{path.name}.unfinished")


@dataclass(frozen=True)
class StageMark:
    """What a stage was made with, and which language models were asked."""

    settings: dict[str, Any]
    complete: bool
    models: dict[Role, str]  # their identities
    addresses: dict[Role, str]  # where they were found


class RunDirectory:
    """The paths of one run, and its manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.tokens = path / "tokens"
        self.checkpoints = path / "train"
        self.coders = path / "coders"
        self.cache = path / "cache"
        self.semantic = path / "semantic"
        self.statistics = path / "statistics.parquet"
        self.results = path / "results.sqlite"
        self.replies = path / "replies.sqlite"
        self.likelihoods = path / "likelihoods.sqlite"
        self.metrics = path / "metrics.jsonl"
        self.report = path / "report"
        self.summary = self.report / "summary.json"
        self.tables = path / "tables.json"
        self.page = self.report / "index.html"
        self._manifest = path / "manifest.json"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def create(self) -> None:
        if self.path.exists() and not self._manifest.exists() and self._strangers():
            raise RunError(
                f"{self.path} is not empty and not a run directory; name a new or empty directory with --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def _strangers(self) -> list[Path]:
        """What is there, but for what a run leaves that is killed before it has a manifest."""
        ours = (_LOCK, unfinished(self._manifest).name)
        return [path for path in self.path.iterdir() if path.name not in ours]

    def marks(self) -> dict[str, StageMark]:
        """By stage; empty for a new run."""
        if not self._manifest.exists():
            return {}
        try:
            found = json.loads(self._manifest.read_text(encoding="utf-8"))
            if found["version"] == _VERSION:
                return {name: StageMark(**mark) for name, mark in found["stages"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{self._manifest} cannot be read ({error}); the run directory was altered") from error
        raise CorruptError(
            f"{self._manifest} has version {found['version']}, expected {_VERSION}: it was written by another version "
            "of outcrop. Start a new run directory."
        )

    @property
    def written(self) -> int | None:
        """When the manifest was last written, in nanoseconds; None for a new run."""
        return self._manifest.stat().st_mtime_ns if self._manifest.exists() else None

    @property
    def busy(self) -> bool:
        """Whether a process works in it."""
        import fcntl

        lock = self.path / _LOCK
        if not lock.exists():
            return False
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def mark(self, stage: str, mark: StageMark) -> None:
        self._write({**self.marks(), stage: mark})

    def unmark(self, *stages: str) -> None:
        marks = self.marks()
        kept = {name: mark for name, mark in marks.items() if name not in stages}
        if kept != marks or not self._manifest.exists():
            self._write(kept)

    def _write(self, marks: dict[str, StageMark]) -> None:
        manifest = {"version": _VERSION, "stages": {name: asdict(mark) for name, mark in marks.items()}}
        write_atomically(self._manifest, (json.dumps(manifest, indent=1) + "\n").encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process works in a run directory at a time. The lock goes with the process, even a killed one."""
        import fcntl

        with (self.path / _LOCK).open("w") as file:
            for _ in range(_TRIES):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)  # who only asks whether it is `busy` holds it for a moment
            else:
                raise RunError(f"another process is working in {self.path}; wait for it, or use another --out")
            yield
