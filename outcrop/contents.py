"""What a run directory holds, read when it is asked for and then kept.

Stages and dashboards read a run through this one object; it knows where each thing lies and in
which form.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from outcrop.coders.placed import PlacedCoder
from outcrop.coders.weights import load_coder, save_coder
from outcrop.config import RunConfig
from outcrop.errors import CorruptError
from outcrop.latents.cache import LatentCache
from outcrop.latents.examples import build_examples
from outcrop.latents.nearest import WindowIndex
from outcrop.latents.semantic import build_index
from outcrop.latents.survey import Survey, survey
from outcrop.latents.windows import Grid
from outcrop.model.corpus import Corpus, load_corpus, load_vocabulary, save_corpus, save_vocabulary
from outcrop.model.embed import Embedder, load_embedder
from outcrop.model.load import choose_device
from outcrop.progress import Progress
from outcrop.replies import Replies
from outcrop.report.tables import VERSION, Tables, load_tables, read_tables, save_tables
from outcrop.results import Results
from outcrop.run import RunDirectory, write_atomically, write_parquet
from outcrop.schema import SCHEMA_VERSION
from outcrop.train.loop import Trained
from outcrop.types import CoderKey, LatentExamples, Reconstruction, Vocabulary

_RECONSTRUCTION = "reconstruction.json"
_RECONSTRUCTIONS = TypeAdapter(Reconstruction)
_LATENTS_OF_A_GROUP = 4_096  # of rows of the statistics, which are read for one latent, too


class Contents:
    """The things in one run directory, under the settings that are wanted of it."""

    def __init__(self, directory: RunDirectory, config: RunConfig, progress: Progress) -> None:
        self.directory, self._config, self._progress = directory, config, progress
        self._embedders: dict[str, Embedder] = {}

    def corpus(self, part: str) -> Corpus:
        return load_corpus(self._part(part))

    def save_corpora(self, corpora: dict[str, Corpus], vocabulary: Vocabulary) -> None:
        self.directory.tokens.mkdir(exist_ok=True)
        for part, corpus in corpora.items():
            save_corpus(corpus, self._part(part))
        save_vocabulary(vocabulary, self._vocabulary)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return load_vocabulary(self._vocabulary)

    @cached_property
    def coders(self) -> list[PlacedCoder]:
        return [self.coder(CoderKey.parse(path.name)) for path in self._coder_folders()]

    def coder(self, key: CoderKey) -> PlacedCoder:
        """One alone, which is not kept."""
        return PlacedCoder(key, *load_coder(self.directory.coders / str(key)))

    def reconstructions(self) -> list[Reconstruction]:
        """How well each coder reconstructs, as measured when it was trained."""
        return [_RECONSTRUCTIONS.validate_json((path / _RECONSTRUCTION).read_bytes()) for path in self._coder_folders()]

    def save_coder(self, trained: Trained) -> None:
        folder = self.directory.coders / str(trained.placed.key)
        folder.mkdir(parents=True, exist_ok=True)
        save_coder(trained.placed.coder, folder, trained.placed.max_norm)
        text = json.dumps(asdict(trained.reconstruction), indent=1)
        write_atomically(folder / _RECONSTRUCTION, (text + "\n").encode())

    def log(self, record: dict[str, Any]) -> None:
        """Append to metrics.jsonl, in place of what a killed training had logged from this step on."""
        kept = [line for line in self.logged() if not _repeats(line, record)]
        text = "\n".join(map(json.dumps, [*kept, record]))
        write_atomically(self.directory.metrics, (text + "\n").encode())

    def logged(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far."""
        path = self.directory.metrics
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def caches(self) -> list[LatentCache]:
        corpus = self.corpus("cache")
        return [self._open_cache(placed, corpus) for placed in self.coders]

    @cached_property
    def surveys(self) -> list[Survey]:
        """Every coder's cache, seen as a whole."""
        config = self._config
        return [
            survey(
                cache,
                self.vocabulary,
                config.select,
                config.examples,
                window_tokens=config.cache.window_tokens,
                seed=config.seed,
                progress=self._progress,
            )
            for cache in self.caches()
        ]

    @cached_property
    def examples(self) -> list[LatentExamples]:
        """The windows of every selected latent."""
        config = self._config
        return [
            examples
            for one in self.surveys
            for examples in build_examples(
                one, config.examples, index=self._index(one.grid), seed=config.seed, progress=self._progress
            )
        ]

    def _index(self, grid: Grid) -> WindowIndex | None:
        """By which windows alike in meaning are found; made when it is first needed."""
        name = self._config.examples.embedder
        if name is None or not self._config.examples.wants("semantic"):
            return None
        return build_index(grid, self.vocabulary, self.embedder(name), self.directory.semantic, self._progress)

    def embedder(self, name: str) -> Embedder:
        """A sentence embedder, loaded once whoever needs it."""
        if name not in self._embedders:
            self._embedders[name] = load_embedder(name, choose_device(self._config.model.device))
        return self._embedders[name]

    def save_statistics(self, table: pa.Table) -> None:
        write_parquet(self.directory.statistics, table, row_group_size=_LATENTS_OF_A_GROUP)

    def results(self) -> Results:
        return Results(self.directory.results)

    def replies(self, *, read_only: bool = False) -> Replies:
        return Replies(self.replies_file, read_only=read_only)

    def asked(self) -> list[dict[str, Any]]:
        """What is in the file of replies: all that this run asked, and others that share the file."""
        if not self.replies_file.exists():
            return []
        with self.replies(read_only=True) as replies:
            return replies.totals()

    @property
    def replies_file(self) -> Path:
        return Path(self._config.judge.replies or self.directory.replies)

    def tables(self, results: Results) -> Tables:
        """What a report is computed from; kept beside it until there are other results."""
        if self._tables_made_of(results):
            return load_tables(self.directory.report)
        self.directory.tables.unlink(missing_ok=True)
        tables = read_tables(results, self.confidence)
        self.directory.report.mkdir(exist_ok=True)
        save_tables(tables, self.directory.report)
        write_atomically(self.directory.tables, _json(self._made_of(results)))
        return tables

    @property
    def report_stands(self) -> bool:
        """Whether there is a report, and of these results by this version of the tables."""
        if not (self.directory.summary.exists() and self.directory.page.exists()):
            return False
        with self.results() as results:
            return self._tables_made_of(results)

    def tables_as_they_are(self) -> Tables:
        """The same, and nothing is written."""
        with Results(self.directory.results, read_only=True) as results:
            if self._tables_made_of(results):
                return load_tables(self.directory.report)
            return read_tables(results, self.confidence)

    @property
    def confidence(self) -> float:
        """Of the report's intervals."""
        return self._config.report.confidence

    def _made_of(self, results: Results) -> dict[str, Any]:
        versions = {"schema": SCHEMA_VERSION, "tables": VERSION}
        return {**versions, "changes": results.changes, "confidence": self.confidence}

    def _tables_made_of(self, results: Results) -> bool:
        """Whether the tables that are kept are of these results."""
        mark = self.directory.tables
        return mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == self._made_of(results)

    def summary(self) -> dict[str, Any]:
        return json.loads(self.directory.summary.read_text(encoding="utf-8"))

    def forget_where(self) -> None:
        """The summary of some latents that was kept last."""
        self._where.unlink(missing_ok=True)

    def save_where(self, summary: dict[str, Any]) -> Path:
        """A summary of some latents, in place of the last one."""
        write_atomically(self._where, _json(summary))
        return self._where

    def save_report(self, summary: dict[str, Any], page: str, figures: dict[str, bytes]) -> None:
        """`figures` by file name."""
        folder = self.directory.report / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for name, data in figures.items():
            write_atomically(folder / name, data)
        write_atomically(self.directory.summary, _json(summary))
        write_atomically(self.directory.page, page.encode())

    def _open_cache(self, placed: PlacedCoder, corpus: Corpus) -> LatentCache:
        try:
            return LatentCache(self.directory.cache, placed, corpus)
        except CorruptError:  # once the damaged shard is removed, the next run caches it again
            self.directory.mark("cache", replace(self.directory.marks()["cache"], complete=False))
            raise

    def _part(self, part: str) -> Path:
        return self.directory.tokens / f"{part}.safetensors"

    @property
    def _where(self) -> Path:
        return self.directory.report / "where.json"

    @property
    def _vocabulary(self) -> Path:
        return self._part("vocabulary")

    def _coder_folders(self) -> list[Path]:
        return sorted(self.directory.coders.iterdir())


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _repeats(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return old["coder"] == new["coder"] and old["step"] >= new["step"]
