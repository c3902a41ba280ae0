"""The pages of a run as a folder of files, which opens from the file system: nothing is fetched, data lie in scripts.

    index.html        what was found
    latents.html      all latents, from latents.js
    latent/…          one each
    static/           style sheets and scripts

Replies have no pages here. The pages are written beside their place and moved there once they are whole.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from outcrop.dashboard.latents import PAGE, SCORES, STATISTICS, LatentTable
from outcrop.dashboard.links import FileLinks
from outcrop.dashboard.opened import OpenedRun
from outcrop.dashboard.pages import latent_page, render, run_page
from outcrop.errors import ConfigError, RunError
from outcrop.progress import Progress
from outcrop.report.ledger import coder_label
from outcrop.report.page import style_sheet
from outcrop.report.text import interval, number, one_in, visible
from outcrop.results import records
from outcrop.run import unfinished
from outcrop.schema import STATUSES

MOST = 20_000  # latents
_STATIC = Path(__file__).parent / "static"
_RATES = ("firing_rate", "context_rate")
_SHOWN_TEXT, _TEXT = 110, 2_000  # characters in the table, and to be searched


def export(run: OpenedRun, folder: Path, progress: Progress) -> None:
    """RunError as long as no latent is known, ConfigError where there are too many."""
    now = run.now
    by = now.first_explainer
    table = now.latents(*by)
    if table is None:
        raise RunError(f"{run.directory.path} has no latents to show yet; `outcrop run` goes on with it")
    if len(table) > MOST:
        raise ConfigError(
            f"{run.directory.path} has {len(table):,} latents, and a folder of pages is for {MOST:,} at most; "
            "`outcrop serve` shows any number"
        )
    here, inside = FileLinks(table.coders, 0), FileLinks(table.coders, 1)
    made = unfinished(folder)
    shutil.rmtree(made, ignore_errors=True)
    (made / "latent").mkdir(parents=True)
    shutil.copytree(_STATIC, made / "static")
    _write(made / "static" / "page.css", style_sheet())
    _write(made / "index.html", run_page(run, table, " ".join(by), here))
    _write(made / "latents.html", _table_page(run, table, here))
    _write(made / "latents.js", f"window.outcropLatents = {json.dumps(_rows(table, here))};\n")
    with progress("pages", len(table), "latents") as advance:
        for row, (coder, latent) in enumerate(records(table.columns, "coder", "latent")):
            _write(made / here.latent(coder, latent), latent_page(run, table, row, inside))
            advance(1)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def _table_page(run: OpenedRun, table: LatentTable, links: FileLinks) -> str:
    return render(
        "table.html.j2",
        links,
        title=f"Latents of {run.name}",
        run=run,
        table=table,
        statuses=STATUSES,
        shown=STATISTICS | SCORES,
    )


def _rows(table: LatentTable, links: FileLinks) -> dict[str, Any]:
    """What table.js shows, searches and sorts by: `shown_…` is how it is shown."""
    numbers = (*STATISTICS, *SCORES)
    columns = ["coder", "shown_coder", "latent", "layer", "status", *numbers, "text", "shown_text", "address"]
    columns += [f"shown_{name}" for name in numbers]
    rows = []
    for i in range(len(table)):
        row = table.row(i)
        text = row["text"] or ""
        shown = {f"shown_{name}": _shown(name, row) for name in numbers}
        shown |= {"shown_coder": coder_label(row["coder"]), "shown_text": visible(text, _SHOWN_TEXT)}
        shown |= {"address": links.latent(row["coder"], row["latent"])}
        told = row | shown | {"text": visible(text, _TEXT)}
        rows.append([told[name] for name in columns])
    return {"columns": columns, "rows": rows, "perPage": PAGE}


def _shown(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name in _RATES:
        return one_in(value) if value else "never"
    if value is None:
        return ""
    ends = interval({"low": row[f"{name}.low"], "high": row[f"{name}.high"]}) if name in SCORES else ""
    return f"{number(value)} {ends}".rstrip()


def _write(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
