"""Addresses → pages.

    /                           the runs
    /RUN/                       what was found in one
    /RUN/latents?…              all its latents, searched, filtered and sorted (`latents.View`)
    /RUN/latents.csv?…          the same rows, whole; also .parquet
    /RUN/neuronpedia.json?…     the same rows, of one coder, as features for Neuronpedia
    /RUN/neuronpedia.jsonl?…    their explanations, for Neuronpedia, too
    /RUN/latent/CODER/INDEX?…   one latent, between its neighbours in a view
    /RUN/document/CODER/INDEX/NUMBER?…   a document of the cache, with the activations of one latent of a view
    /RUN/asked/CODER/INDEX?…    what language models were asked about one latent, word for word, and what they answered
    /RUN/try?text=&token=       which latents fire on a text, or on one token of it, where this was asked for
    /compare?first=&second=     what differs between two runs
    /static/…                   style sheets and scripts

RUN is a number: paths never come from an address.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from outcrop.dashboard import downloads
from outcrop.dashboard.guard import HEADERS, WILDCARDS, Guard, is_loopback
from outcrop.dashboard.latents import LatentTable
from outcrop.dashboard.links import ServerLinks
from outcrop.dashboard.live import Live
from outcrop.dashboard.opened import OpenedRun, State
from outcrop.dashboard.pages import asked_page, document_page, latent_page, latents_page, render, run_page, try_page
from outcrop.dashboard.view import View
from outcrop.errors import ConfigError, OutcropError, RunError
from outcrop.pipeline import compare_runs
from outcrop.report.comparison import METRICS
from outcrop.report.page import style_sheet
from outcrop.report.text import explained_by
from outcrop.types import CoderKey, LatentId

_HERE = Path(__file__).parent


def serve(paths: Sequence[Path], host: str, port: int, say: Callable[[str], None], *, live: bool = False) -> None:
    """Serve runs until it is stopped; `live` lets readers try texts. RunError where one is none."""
    token = None if is_loopback(host) else secrets.token_urlsafe(16)
    opened = [OpenedRun(path) for path in paths]
    app = application(opened, host, token, live=live)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nothing can listen at port {port} of {host} ({error}); --port and --host name others"
        ) from error
    shown = socket.gethostname() if host in WILDCARDS else f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "") + "   (Ctrl-C stops)")
    Thread(target=_read, args=(opened, say), daemon=True).start()
    uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listening])


def _read(runs: Sequence[OpenedRun], say: Callable[[str], None]) -> None:
    """The tables of latents, so that the first reader need not wait for them."""
    for run in runs:
        try:
            with run.lock:
                run.now.latents(*run.now.first_explainer)
        except OutcropError as error:
            say(f"{run.directory.path}: {error}")


def _labels(runs: Sequence[OpenedRun]) -> list[str]:
    """The names of the runs, with as many of the folders that they are in as tell them apart."""
    parts = [run.directory.path.resolve().parts for run in runs]
    n = next(n for n in count(1) if len({of[-n:] for of in parts}) == len({*parts}))
    return ["/".join(of[-n:]) for of in parts]


def application(
    runs: Sequence[OpenedRun], host: str = "127.0.0.1", token: str | None = None, *, live: bool = False
) -> Starlette:
    pages = _Pages(runs, _labels(runs), Live() if live else None)
    routes = [
        Route("/", pages.runs),
        Route("/{run:int}/", pages.run),
        Route("/{run:int}/latents", pages.latents),
        Route("/{run:int}/latents.{kind}", pages.export),
        Route("/{run:int}/neuronpedia.{kind}", pages.neuronpedia),
        Route("/{run:int}/latent/{coder:path}/{index:int}", pages.latent),
        Route("/{run:int}/document/{coder:path}/{index:int}/{number:int}", pages.document),
        Route("/{run:int}/asked/{coder:path}/{index:int}", pages.asked),
        *([Route("/{run:int}/try", pages.tried)] if live else []),
        Route("/compare", pages.compare),
        Route("/static/page.css", pages.style),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]
    handlers: dict[Any, Any] = {OutcropError: _complain, HTTPException: _missing, Exception: _fail}
    guard = Middleware(Guard, host=host, token=token)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


def _complain(_: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, ConfigError) else 409 if isinstance(error, RunError) else 500
    return _page("error.html.j2", status, title="This cannot be shown", error=str(error))


def _missing(_: Request, error: HTTPException) -> Response:
    return _page("error.html.j2", error.status_code, title="There is no such page", error=error.detail)


def _fail(_: Request, error: Exception) -> Response:
    """Of an error that nobody expected, which is raised again behind this answer and not seen by the guard."""
    return PlainTextResponse(f"this page failed ({type(error).__name__}); the server goes on", 500, headers=HEADERS)


def _page(template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """One that is about no run."""
    return HTMLResponse(render(template, ServerLinks(0), **context), status)


class _Pages:
    """Each gives one page; they run in threads."""

    def __init__(self, runs: Sequence[OpenedRun], labels: Sequence[str], live: Live | None) -> None:
        self._runs, self._labels, self._live = runs, labels, live
        self._comparing = Lock()  # who asks for the same waits for it

    def runs(self, _: Request) -> Response:
        if len(self._runs) == 1:
            return RedirectResponse("/0/", 303)
        return _page("runs.html.j2", title="Runs", runs=list(zip(self._labels, self._runs, strict=True)))

    def style(self, _: Request) -> Response:
        return PlainTextResponse(style_sheet(), media_type="text/css")

    def run(self, request: Request) -> Response:
        run, links = self._run(request)
        with run.lock:
            now = run.now
            table, by = _table(now, View())
            return HTMLResponse(run_page(now, table, explained_by(*by), links))

    def latents(self, request: Request) -> Response:
        run, links = self._run(request)
        view = _view(request)
        if request.url.query != view.query():  # forms send what is empty, too; nobody wants to share that
            return RedirectResponse("?".join(filter(None, (links.latents, view.query()))), 303)
        with run.lock:
            now = run.now
            table, by = _table(now, view)
            return HTMLResponse(latents_page(now, table, explained_by(*by), view, links))

    def export(self, request: Request) -> Response:
        run, _ = self._run(request)
        kind, view = request.path_params["kind"], _view(request)
        with run.lock:
            table, by = _table(run.now, view)
            return downloads.rows(table, view, kind, explained_by(*by))

    def neuronpedia(self, request: Request) -> Response:
        run, _ = self._run(request)
        kind, view = request.path_params["kind"], _view(request)
        with run.lock:
            table, by = _table(run.now, view)
            return downloads.for_neuronpedia(run, table, view, kind, by)

    def latent(self, request: Request) -> Response:
        run, links = self._run(request)
        with run.lock:
            now = run.now
            view = _view(request) if request.url.query else None
            latent, table, row = _latent(now, request, view or View())
            return HTMLResponse(latent_page(now, table, row, now.shown(latent), links, view))

    def document(self, request: Request) -> Response:
        run, links = self._run(request)
        number = request.path_params["number"]
        with run.lock:
            now = run.now
            latent, _, _ = _latent(now, request, View())
            try:
                (document,) = now.documents(latent, [number])
            except KeyError:
                raise HTTPException(404, f"no document {number} was cached") from None
            return HTMLResponse(document_page(now, latent, document, links, _came_from(request)))

    def asked(self, request: Request) -> Response:
        run, links = self._run(request)
        with run.lock:
            now = run.now
            latent, _, _ = _latent(now, request, View())
            return HTMLResponse(asked_page(now, latent, now.purposes(latent), links, _came_from(request)))

    def tried(self, request: Request) -> Response:
        assert self._live is not None
        run, links = self._run(request)
        text = request.query_params.get("text", "").replace("\r\n", "\n")  # as forms send what was typed
        token = request.query_params.get("token", "")
        at = _whole(token, "a token") if token else None
        with run.lock:
            config, coders = run.now.config, run.now.coders
        tried, told = None, ""
        try:
            tried = self._live.tried(config, coders, text, at) if text else None
        except ConfigError as error:
            told = str(error)
        with run.lock:
            now = run.now
            table, _ = _table(now, View())
            return HTMLResponse(try_page(now, table, text, at, tried, links, told), 400 if told else 200)

    def compare(self, request: Request) -> Response:
        missing = [name for name in ("first", "second") if name not in request.query_params]
        if missing:
            raise ConfigError(f"the address names no {missing[0]} run; expected first= and second= with their numbers")
        numbers = {name: _whole(request.query_params[name], "a run") for name in ("first", "second")}
        first, second = map(self._numbered, numbers.values())
        names = self._labels[numbers["first"]], self._labels[numbers["second"]]
        with self._comparing:
            written = first.directory.written, second.directory.written
            comparison = _compared(first.directory.path, second.directory.path, written)
        return _page(
            "compare.html.j2",
            title=" and ".join(names),
            names=names,
            of_first=ServerLinks(numbers["first"]),
            of_second=ServerLinks(numbers["second"]),
            comparison=comparison,
            others={one["first"]: one["second"] for one in comparison["coders"]},
            metrics=METRICS,
        )

    def _run(self, request: Request) -> tuple[OpenedRun, ServerLinks]:
        number = request.path_params["run"]
        return self._numbered(number), ServerLinks(number, live=self._live is not None)

    def _numbered(self, number: int) -> OpenedRun:
        if number >= len(self._runs):
            raise HTTPException(404, f"there is no run {number}; the last is {len(self._runs) - 1}")
        return self._runs[number]


@lru_cache(maxsize=4)
def _compared(first: Path, second: Path, written: tuple[int | None, int | None]) -> dict[str, Any]:
    """Two runs as their manifests were `written`."""
    return compare_runs(first, second)


def _whole(text: str, what: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise ConfigError(f"{what} is named {text[:60]!r}; expected its number, from 0")
    return int(text)


def _latent(now: State, request: Request, view: View) -> tuple[LatentId, LatentTable, int]:
    """The latent that the address names, the table of all, and its row there."""
    coder, index = request.path_params["coder"], request.path_params["index"]
    table, _ = _table(now, view)
    row = None if table is None else table.place(coder, index)
    if table is None or row is None:
        raise HTTPException(404, f"there is no latent {index} of {coder[:200]}")
    return LatentId(CoderKey.parse(coder), index), table, row


def _came_from(request: Request) -> str:
    """The query of the view that a page belongs to."""
    return f"?{_view(request).named}" if request.url.query else ""


def _view(request: Request) -> View:
    return View.of(parse_qs(request.url.query, keep_blank_values=True))


def _table(now: State, view: View) -> tuple[LatentTable | None, tuple[str, str]]:
    """The table beside the explanations that the view names, by default our first explainer's."""
    known = {explained_by(*one): one for one in now.explainers}
    if view.explained_by and view.explained_by not in known:
        raise ConfigError(f"nobody called {view.explained_by!r} explained this run; there are {', '.join(known)}")
    by = known.get(view.explained_by) or now.first_explainer
    return now.latents(*by), by
