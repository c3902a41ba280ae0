"""The rows of a view as files: CSV, Parquet, and what Neuronpedia takes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow.csv
import pyarrow.parquet
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from outcrop.dashboard import neuronpedia
from outcrop.dashboard.latents import LatentTable
from outcrop.dashboard.opened import OpenedRun, State
from outcrop.dashboard.view import View
from outcrop.errors import ConfigError
from outcrop.report.text import explained_by
from outcrop.types import CoderKey

_WRITERS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "csv": (pyarrow.csv.write_csv, "text/csv"),
    "parquet": (pyarrow.parquet.write_table, "application/vnd.apache.parquet"),
}


def rows(table: LatentTable | None, view: View, kind: str, by: str) -> Response:
    """Whole, beside the explanations that `by` gave."""
    if kind not in _WRITERS:
        raise HTTPException(404, f"latents are exported as {', '.join(_WRITERS)}, not as {kind[:20]}")
    if table is None:
        raise HTTPException(404, "no latent is known yet")
    write, media_type = _WRITERS[kind]
    sink = io.BytesIO()
    write(table.table(view), sink)
    told = "".join(c if c.isascii() and c.isalnum() else "-" for c in by)
    return Response(sink.getvalue(), media_type=media_type, headers=_named(f"latents-{told}.{kind}"))


def for_neuronpedia(run: OpenedRun, table: LatentTable | None, view: View, kind: str, by: tuple[str, str]) -> Response:
    """Features, or the explanations that `by` gave. ConfigError where the view has no row, or several coders'."""
    now = run.now
    chosen = None if table is None else table.chosen(view)
    if table is None or chosen is None or not len(chosen):
        raise ConfigError("the address chooses no latent")
    coders = {*table.columns["coder"][chosen].tolist()}
    if len(coders) > 1:
        raise ConfigError(f"what Neuronpedia takes is of one coder, and here are {len(coders)}; choose one")
    coder = CoderKey.parse(coders.pop())
    about = neuronpedia.source(now.config, coder)
    match kind:
        case "json":
            name, content = "batch-0.json", _batch(run, now, table, coder, chosen.tolist(), about)
        case "jsonl":
            explained = chosen[table.explained[chosen]].tolist()
            if not explained:
                raise ConfigError("none of these latents has an explanation; the address chooses others")
            name, model = "explanations.jsonl", now.explaining_model(by[0])
            content = neuronpedia.explanations(about, map(table.row, explained), explained_by(*by), model)
        case _:
            raise HTTPException(404, f"Neuronpedia takes json and jsonl, not {kind[:20]}")
    return StreamingResponse(content, media_type="application/json", headers=_named(name))


def _batch(
    run: OpenedRun, now: State, table: LatentTable, coder: CoderKey, rows: Sequence[int], about: Mapping[str, Any]
) -> Iterator[str]:
    """A batch of Neuronpedia's of rows of one coder, by number; other pages get their turn in between."""
    yield json.dumps(about)[:-1] + ', "features": ['
    for i, row in enumerate(sorted(rows, key=lambda row: int(table.columns["latent"][row]))):
        with run.lock:
            feature = now.feature(coder, table.row(row))
        yield ("," if i else "") + json.dumps(feature)
    yield "]}"


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
