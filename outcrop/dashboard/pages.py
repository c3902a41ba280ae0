"""The pages of a run as it is `now`, as HTML; `links` says where they stand. Who asks for one holds the run's lock."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from outcrop import config as configs
from outcrop.dashboard.asked import Asked, Purpose
from outcrop.dashboard.curves import curves
from outcrop.dashboard.dots import score_dots
from outcrop.dashboard.latents import STATISTICS, LatentTable
from outcrop.dashboard.links import Links
from outcrop.dashboard.live import LONGEST, Fired, Tried
from outcrop.dashboard.opened import Document, Shown, State
from outcrop.dashboard.spread import score_spreads
from outcrop.dashboard.view import FLAGS, View
from outcrop.interp.explain import BANDS
from outcrop.report.page import templates
from outcrop.report.text import PLACEHOLDER, explained_by, visible_token
from outcrop.report.windows import pieces_of
from outcrop.schema import STATUSES
from outcrop.stages import ORDER
from outcrop.types import LatentId, Message, Vocabulary

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, links: Links, **context: Any) -> str:
    return templates(_TEMPLATES).get_template(template).render(links=links, **context)


def run_page(now: State, table: LatentTable | None, by: str, links: Links) -> str:
    totals, unread = now.totals()
    return render(
        "run.html.j2",
        links,
        title=now.name,
        run=now,
        marks=now.marks,
        stages=ORDER,
        running=links.fresh and now.directory.busy,
        unfinished=next((stage for stage in ORDER if stage in now.marks and not now.marks[stage].complete), None),
        training=curves(now.training()),
        totals=totals,
        unread=unread,
        spreads=[] if table is None else score_spreads(table),
        dots=None if table is None else score_dots(table, links.latent),
        explained_by=by,
        config=configs.dump(now.config),
        path=shlex.quote(str(now.directory.path)),
        config_path=shlex.quote(str(now.directory.config)),
        **(now.findings or {"summary": None, "reconstruction": now.reconstruction}),
    )


def latents_page(now: State, table: LatentTable | None, by: str, view: View, links: Links) -> str:
    page = None if table is None else table.page(view)
    one_coder = table is not None and len(table.coders_in(view)) == 1
    return _table_page("latents.html.j2", now, table, by, view, links, page=page, one_coder=one_coder)


def table_page(now: State, table: LatentTable, by: str, links: Links) -> str:
    """All latents, for a script to search, filter and sort."""
    return _table_page("table.html.j2", now, table, by, View(), links)


def _table_page(
    template: str,
    now: State,
    table: LatentTable | None,
    by: str,
    view: View,
    links: Links,
    **context: Any,
) -> str:
    return render(
        template,
        links,
        title=f"Latents of {now.name}",
        run=now,
        view=view,
        table=table,
        explainers=[explained_by(*one) for one in now.explainers],
        explained_by=by,
        statuses=STATUSES,
        flags=FLAGS,
        statistics=STATISTICS,
        scores=None if table is None else table.shown(view),
        **context,
    )


def try_page(
    now: State,
    table: LatentTable | None,
    text: str,
    at: int | None,
    tried: Tried | None,
    links: Links,
    error: str = "",
) -> str:
    """With the latents that fire on a text or on its token `at`, once it was tried, or what was wrong with it."""
    tokens, answers = list[tuple[str, bool]](), dict[str, dict[str, Any]]()
    if tried is not None:
        texts = map(visible_token, now.vocabulary.strings(tried.tokens))
        tokens = list(zip(texts, tried.read.tolist(), strict=True))
        for key, answer in tried.answers.items():
            shown = [_fired(table, str(key), tried, one, at, now.vocabulary) for one in answer.strongest]
            reads = at is None or bool(answer.read[at])
            answers[str(key)] = {"n": answer.n, "strongest": shown, "reads": reads}
    return render(
        "try.html.j2",
        links,
        title="Try a text",
        run=now,
        text=text,
        at=at,
        tokens=tokens,
        unread=sum(not read for _, read in tokens),
        answers=answers,
        longest=LONGEST,
        error=error,
    )


def _fired(
    table: LatentTable | None, coder: str, tried: Tried, fired: Fired, at: int | None, vocabulary: Vocabulary
) -> dict[str, Any]:
    """A latent beside what is known of it: how strong it is here, of the most that it ever was in the cache."""
    row = None if table is None else table.place(coder, fired.latent)
    known = None if table is None or row is None else table.row(row)
    strength = fired.peak if at is None else float(fired.activations[at])
    return {
        "latent": fired.latent,
        "strength": strength,
        "share": strength / known["max_activation"] if known and known["max_activation"] else None,
        "known": known,
        "pieces": tried.pieces(fired, vocabulary),
    }


def document_page(now: State, latent: LatentId, document: Document, links: Links, query: str) -> str:
    """A document of the cache, with the activations of a latent on its contexts; `query` is the view it came from."""
    return render(
        "document.html.j2",
        links,
        title=f"Document {document.number}",
        run=now,
        coder=str(latent.coder),
        index=latent.index,
        query=query,
        number=document.number,
        peak=document.peak,
        contexts={
            number: pieces_of(*context, document.peak, now.vocabulary, None)
            for number, context in enumerate(document.contexts, document.first_context)
        },
    )


def document_frame(now: State, links: Links) -> str:
    """A page in which a script puts the document that its address names."""
    return render("files_document.html.j2", links, title="Document", run=now, placeholder=PLACEHOLDER)


def latent_page(now: State, table: LatentTable, row: int, shown: Shown, links: Links, view: View | None = None) -> str:
    """Of the latent in a row of the table; the pages before and behind are those of its neighbours in a view, or by
    number where the view does not hold it."""
    about = table.row(row)
    coder, index = about["coder"], about["latent"]
    assert now.findings is not None, "a run with a table has findings"
    view = view if view is not None and table.holds(row, view) else None
    query = "" if view is None else f"?{view.named}"
    before, behind = (_latent_link(table, one, links, query) for one in table.around(row, view))
    return render(
        "latent.html.j2",
        links,
        title=f"Latent {index}",
        run=now,
        coder=coder,
        latent=about,
        shown=shown,
        told=_told(table, coder, shown),
        cards=shown.cards,
        band_names=BANDS,
        flags=FLAGS,
        several=len(shown.cards) > 1,
        index=f"{links.latents}{query}",
        query=query,
        replies=f"{links.asked(coder, index)}{query}#",
        document=partial(links.document, coder, index, query),
        before=before,
        behind=behind,
        **now.findings,
    )


def _told(table: LatentTable, coder: str, shown: Shown) -> dict[int, dict[str, str | None]]:
    """What is said of the neighbours, and what sets them off."""
    neighbours = {} if shown.portrait is None else shown.portrait.neighbours
    rows = {other: table.place(coder, other) for near in neighbours.values() for other, _ in near}
    return {other: table.told(row) for other, row in rows.items() if row is not None}


def _latent_link(table: LatentTable, row: int | None, links: Links, query: str) -> str | None:
    if row is None:
        return None
    return links.latent(str(table.columns["coder"][row]), int(table.columns["latent"][row])) + query


def asked_page(now: State, latent: LatentId, purposes: Sequence[Purpose], links: Links, query: str = "") -> str:
    """Word for word, by what it was asked for; `query` is the view that the latent came from."""
    found, unread = now.with_replies([request for purpose in purposes for request in purpose.requests])
    by_request = {one.request: one for one in found}
    groups = [_alike([by_request[request] for request in one.requests]) for one in purposes]
    return render(
        "asked.html.j2",
        links,
        title=f"Asked about latent {latent.index}",
        run=now,
        coder=str(latent.coder),
        index=latent.index,
        query=query,
        purposes=list(zip(purposes, groups, strict=True)),
        unread=unread,
    )


def _alike(asked: Sequence[Asked]) -> dict[tuple[Message, ...], list[Asked]]:
    """By what they begin with, which stands once before them."""
    groups = dict[tuple[Message, ...], list[Asked]]()
    for one in asked:
        groups.setdefault(one.messages[:-1], []).append(one)
    return groups
