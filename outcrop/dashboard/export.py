"""The pages of a run as a folder of files, which opens from the file system: nothing is fetched, data lie in scripts.

    index.html                what was found
    latents.html              all latents, from latents.js and explained/N.js
    explained/                the latents beside what each explainer said: to be shown, as lines, and as Parquet; and
                              its other metrics, one by one
    features/                 each latent as Neuronpedia takes it
    latent/CODER-INDEX.html   one latent
    asked/CODER-INDEX.html    what language models were asked about it
    document.html             a document with the activations of one latent, from documents/ and firings/
    static/                   style sheets and scripts

They are written beside their place and moved there once they are whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from outcrop.dashboard import neuronpedia
from outcrop.dashboard.latents import STATISTICS, LatentTable
from outcrop.dashboard.links import FileLinks
from outcrop.dashboard.opened import Document, OpenedRun, State
from outcrop.dashboard.pages import asked_page, document_frame, latent_page, run_page, table_page
from outcrop.dashboard.view import FLAGS, MOST_ROWS, PAGE, View
from outcrop.errors import ConfigError, RunError
from outcrop.progress import Progress
from outcrop.report.ledger import coder_label
from outcrop.report.page import style_sheet
from outcrop.report.summary import plain
from outcrop.report.text import explained_by, interval, number, one_in, visible, visible_token
from outcrop.report.windows import shade_of
from outcrop.run import unfinished
from outcrop.types import CoderKey, LatentId

MOST = 20_000  # latents
_STATIC = Path(__file__).parent / "static"
_FOLDERS = ("latent", "asked", "explained", "features", "documents", "firings")
_RATES = ("firing_rate", "context_rate")
_LABEL, _SHOWN_TEXT, _TEXT = 60, 110, 2_000  # characters: of coders; in the table; to be searched


def export(run: OpenedRun, folder: Path, progress: Progress) -> None:
    """RunError as long as no latent is known, or while a process works in the run; ConfigError where there are too
    many."""
    path = run.directory.path
    with run.lock, run.directory.locked():
        now = run.now
        table = now.latents(*now.first_explainer)
        if table is None:
            raise RunError(f"{path} has no latents to show yet; `outcrop run` goes on with it")
        if len(table) > MOST:
            raise ConfigError(
                f"{path} has {len(table):,} latents, and a folder of pages is for {MOST:,} at most; "
                "`outcrop serve` shows any number"
            )
        made = unfinished(folder)
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(_STATIC, made / "static")
        for name in _FOLDERS:
            (made / name).mkdir()
        _Folder(now, table, made).write(progress)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


class _Folder:
    """The files of one run."""

    def __init__(self, now: State, table: LatentTable, folder: Path) -> None:
        self._now, self._table, self._folder = now, table, folder
        self._here, self._inside = FileLinks(table.coders, 0), FileLinks(table.coders, 1)
        self._by = explained_by(*now.first_explainer)
        self._documents = set[int]()  # that are written

    def write(self, progress: Progress) -> None:
        self._write_table()
        self._write("static/page.css", style_sheet())
        self._write("index.html", run_page(self._now, self._table, self._by, self._here))
        self._write("document.html", document_frame(self._now, self._here))
        with progress("pages", len(self._table), "latents") as advance:
            for row in range(len(self._table)):
                self._write_latent(row)
                advance(1)

    def _write_table(self) -> None:
        self._write("latents.html", table_page(self._now, self._table, self._by, self._here))
        self._write_script("latents.js", "outcropLatents", self._about_table())
        for i, explainer in enumerate(self._now.explainers):
            table = self._now.latents(*explainer)
            assert table is not None
            self._write_script(f"explained/{i}.js", "outcropExplained", _explained(table))
            self._write_script(f"explained/{i}.lines.js", "outcropLines", self._lines(table, *explainer))
            for name in table.more:
                self._write_script(f"explained/{i}.{name}.js", "outcropMetric", _metric(table, name))
            whole = table.table(View(sort="latent", ascending=True))
            pyarrow.parquet.write_table(whole, self._folder / f"explained/{i}.parquet")

    def _lines(self, table: LatentTable, explainer: str, source: str) -> dict[str, Any]:
        """What take.js puts files together from: the line of each latent."""
        every = table.rows(np.arange(len(table)), View())
        by, model = explained_by(explainer, source), self._now.explaining_model(explainer)
        told = list[str | None]()
        for row in map(table.row, range(len(table))):
            about = self._sources[row["coder"]]
            if about is None or row["text"] is None:
                told.append(None)
            else:
                told += neuronpedia.explanations(about, [row], by, model)
        return {
            "head": _csv(every.slice(0, 0), header=True),
            "csv": [_csv(every.slice(i, 1), header=False) for i in range(len(every))],
            "explanations": told,
        }

    @cached_property
    def _sources(self) -> dict[str, dict[str, Any] | None]:
        """What Neuronpedia calls each coder; None for those that it has no place for."""
        found = dict[str, dict[str, Any] | None]()
        for coder in self._table.coders:
            try:
                found[coder] = neuronpedia.source(self._now.config, CoderKey.parse(coder))
            except ConfigError:
                found[coder] = None
        return found

    def _about_table(self) -> dict[str, Any]:
        """What table.js shows, searches and sorts by, whoever explained: `shown_…` is how it is shown."""
        rows = [self._table.row(i) for i in range(len(self._table))]
        names = ("hookpoint", "coder", "latent", "layer", "prefix", "status", "trigger", *FLAGS, *STATISTICS)
        columns = {name: [row[name] for row in rows] for name in names}
        columns["shown_trigger"] = [None if text is None else visible_token(text) for text in columns["trigger"]]
        columns |= {f"shown_{name}": [_shown_statistic(name, row[name]) for row in rows] for name in STATISTICS}
        columns["shown_coder"] = [visible(coder_label(coder), _LABEL) for coder in columns["coder"]]
        columns["feature"] = [f"features/{self._here.stem(row['coder'], row['latent'])}.js" for row in rows]
        columns["address"] = [self._here.latent(row["coder"], row["latent"]) for row in rows]
        choices = {
            "explained_by": [explained_by(*one) for one in self._now.explainers],
            "hookpoint": self._table.hookpoints,
            "coder": self._table.coders,
            "layer": [str(layer) for layer in self._table.layers],
            "prefix": [str(prefix) for prefix in self._table.prefixes],
        }
        usual = {"sort": View.sort, "size": str(PAGE), "page": "1"}
        return {
            "columns": columns,
            "flags": FLAGS,
            "choices": choices,
            "usual": usual,
            "mostRows": MOST_ROWS,
            "neuronpedia": self._sources,
        }

    def _write_latent(self, row: int) -> None:
        coder, index = str(self._table.columns["coder"][row]), int(self._table.columns["latent"][row])
        latent, stem = LatentId(CoderKey.parse(coder), index), self._here.stem(coder, index)
        shown = self._now.shown(latent)
        self._write(f"latent/{stem}.html", latent_page(self._now, self._table, row, shown, self._inside))
        feature = self._now.feature(latent.coder, self._table.row(row))
        self._write_script(f"features/{stem}.js", "outcropFeature", feature)
        if shown.asked:
            self._write(f"asked/{stem}.html", asked_page(self._now, latent, shown.asked, self._inside))
        if shown.documents:
            documents = self._now.documents(latent, shown.documents)
            self._write_documents(documents)
            self._write_script(f"firings/{stem}.js", "outcropFirings", self._firings(latent, documents))

    def _write_documents(self, documents: Sequence[Document]) -> None:
        """The tokens of those that are met for the first time."""
        for new in documents:
            if new.number not in self._documents:
                texts = [list(map(visible_token, self._now.vocabulary.strings(tokens))) for tokens, _ in new.contexts]
                told = {"first": new.first_context, "texts": texts}
                self._write_script(f"documents/{new.number}.js", "outcropDocument", told)
                self._documents.add(new.number)

    def _firings(self, latent: LatentId, documents: Sequence[Document]) -> dict[str, Any]:
        """By document: its peak, and where in each context the latent fires, with the shade and the activation."""
        coder = str(latent.coder)
        return {
            "label": visible(coder_label(coder), _LABEL),
            "address": self._here.latent(coder, latent.index),
            "peaks": {one.number: number(one.peak) if one.peak else "" for one in documents},
            "documents": {
                one.number: [_fired(fires.tolist(), one.peak) for _, fires in one.contexts] for one in documents
            },
        }

    def _write_script(self, name: str, variable: str, value: Any) -> None:
        told = json.dumps(value, separators=(",", ":"))  # ASCII: nothing hidden stands in a script
        self._write(name, f"window.{variable} = {told};\n")

    def _write(self, name: str, content: str) -> None:
        (self._folder / name).write_text(content, encoding="utf-8")


def _csv(rows: pa.Table, *, header: bool) -> str:
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(rows, sink, pyarrow.csv.WriteOptions(include_header=header))
    return bytes(sink.getvalue()).decode()


def _explained(table: LatentTable) -> dict[str, Any]:
    """What the table shows of one explainer."""
    rows = [table.row(i) for i in range(len(table))]
    columns = {name: [row[name] for row in rows] for name in table.scores}
    for name in table.scores:
        ends = ([row[end] for row in rows] for end in (name, f"{name}.low", f"{name}.high"))
        columns[f"shown_{name}"] = list(map(_shown_score, *ends))
    texts = [row["text"] for row in rows]
    columns["text"] = [None if text is None else text[:_TEXT] for text in texts]
    columns["shown_text"] = [None if text is None else visible(text, _SHOWN_TEXT) for text in texts]
    return columns


def _shown_statistic(name: str, value: float | None) -> str:
    if name in _RATES:
        return one_in(value) if value else "never"
    return number(value)


def _metric(table: LatentTable, name: str) -> dict[str, Any]:
    """What the table shows of a metric where it is sorted by it, of the latents that are explained, and what then
    stands in the lines of CSV."""
    columns = table.more[name].columns(name)
    value, low, high = (plain(columns[end].tolist()) for end in (name, f"{name}.low", f"{name}.high"))
    lines = pa.table({end: pa.array(column, from_pandas=True) for end, column in columns.items()})
    return {
        "rows": table.explained_rows.tolist(),
        "value": value,
        "shown": list(map(_shown_score, value, low, high)),
        "head": _csv(lines.slice(0, 0), header=True),
        "csv": [_csv(lines.slice(i, 1), header=False) for i in range(len(lines))],
        "none": _csv(pa.table({end: pa.nulls(1, pa.float64()) for end in columns}), header=False),
    }


def _shown_score(value: float | None, low: float | None, high: float | None) -> tuple[str, str] | None:
    """The value and its interval; empty where the score has none."""
    if value is None:
        return None
    return number(value), "" if low is None else interval({"low": low, "high": high})


def _fired(activations: list[float], peak: float) -> dict[int, tuple[int, str]]:
    return {i: (shade_of(one, peak), number(one)) for i, one in enumerate(activations) if one > 0}
