"""A run directory, finished or running, opened for reading: nothing in it is written.

What stages left is read when it is first asked for, and anew once a stage is begun or completed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar, get_args

import numpy as np
from numpy import ndarray

from outcrop import config as configs
from outcrop.coders.placed import PlacedCoder
from outcrop.config import Explainer, RunConfig
from outcrop.config.judging import TOKEN_RULES
from outcrop.contents import Contents
from outcrop.dashboard import asked, neuronpedia
from outcrop.dashboard.asked import Asked, Purpose
from outcrop.dashboard.latents import LatentTable
from outcrop.dashboard.portrait import Portrait, portrait_of, statistics_of
from outcrop.database import unchanged
from outcrop.errors import CorruptError, RunError
from outcrop.latents.cache import LatentCache
from outcrop.latents.sampling import quantiles
from outcrop.latents.windows import Grid, build_grid
from outcrop.progress import silent
from outcrop.replies import Replies
from outcrop.report.judged import explainers
from outcrop.report.page import Card, Cards, findings
from outcrop.report.reconstruction import reconstruction_table
from outcrop.report.summary import plain, summarise
from outcrop.report.tables import Tables
from outcrop.report.windows import LatentPage, WindowGroup, latent_pages, window_groups
from outcrop.results import Results, records
from outcrop.run import RunDirectory, StageMark
from outcrop.types import CoderKey, Example, LatentExamples, LatentId, StratumShare, Vocabulary

T = TypeVar("T")

_STRONGEST = 4  # windows of each quantile that are shown of a latent


@dataclass(frozen=True)
class Shown:
    """What is shown of one latent beside its row of the table."""

    cards: list[Card]  # its explanations, those of the first explainer before the others
    strongest: tuple[WindowGroup, ...]  # of each quantile of all of its windows
    portrait: Portrait | None  # None as long as `outcrop stats` was not asked for
    bands: list[dict[str, Any]]  # what its bands say of each other, one row per explainer
    asked: list[Purpose]  # what language models were asked about it

    @property
    def documents(self) -> list[int]:
        """Those that its windows are from."""
        of_cards = (group for card in self.cards for group in (*card.page.explain, *card.page.scored))
        groups = (*self.strongest, *of_cards)
        return sorted({window.document for group in groups for window in group.windows})


@dataclass(frozen=True)
class Document:
    """One of the cache, with the activations of a latent."""

    number: int
    first_context: int  # as the cache counts them
    contexts: list[tuple[ndarray, ndarray]]  # the tokens [t] and the activations [t] of each

    @property
    def peak(self) -> float:
        return max(float(activations.max()) for _, activations in self.contexts)


class OpenedRun:
    """One run directory. Who asks for `now`, and of it, holds the `lock`."""

    def __init__(self, path: Path) -> None:
        """RunError where there is no run."""
        self.directory = RunDirectory(path)
        if not self.directory.config.exists():
            raise RunError(f"{path} is no run directory: it has no {self.directory.config.name}")
        self.lock = RLock()
        self._state: State | None = None
        self._written: int | None = None  # when the manifest was, of which that is

    @property
    def now(self) -> State:
        """What is known of it as its manifest stands."""
        written = self.directory.written
        if self._state is None or self._written != written:
            self._state, self._written = State(self.directory, self.directory.marks()), written
        return self._state


class State:
    """A run as one manifest describes it. What takes long is found once."""

    def __init__(self, directory: RunDirectory, marks: dict[str, StageMark]) -> None:
        self.directory, self.marks = directory, marks
        self._contents = Contents(directory, self.config, silent)
        self._tables_of: dict[tuple[str, str], LatentTable] = {}
        self._places: dict[str, tuple[LatentCache, Grid]] = {}
        self._strongest_of: tuple[LatentId, list[Example], dict[int, ndarray]] | None = None

    @property
    def name(self) -> str:
        return self.directory.name

    @cached_property
    def config(self) -> RunConfig:
        return configs.load(self.directory.config)

    @cached_property
    def tables(self) -> Tables | None:
        """None as long as not all latents are known."""
        read = self._contents.tables_as_they_are
        return unchanged(self.directory.results, read) if self._completed("examples") else None

    @cached_property
    def findings(self) -> dict[str, Any] | None:
        """What the report's templates show of all of it."""
        if self.tables is None:
            return None
        return findings(summarise(self.tables, self._contents.reconstructions(), self.config.report))

    @cached_property
    def reconstruction(self) -> list[dict[str, Any]]:
        """A table for each coder that is trained."""
        return reconstruction_table(self._contents.reconstructions()) if self._completed("train") else []

    @property
    def coders(self) -> list[PlacedCoder]:
        return self._contents.coders if self._completed("train") else []

    def _completed(self, stage: str) -> bool:
        return stage in self.marks and self.marks[stage].complete

    @property
    def vocabulary(self) -> Vocabulary:
        return self._contents.vocabulary

    def training(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far."""
        return self._contents.logged()

    def totals(self) -> tuple[list[dict[str, Any]], str | None]:
        """What was asked of each model so far, and what it cost, by all runs that share the file of replies; with the
        reason where that cannot be read although something was asked."""
        try:
            return self._of_replies(Replies.totals), None
        except (CorruptError, RunError) as error:
            return [], str(error) if any(mark.models for mark in self.marks.values()) else None

    def purposes(self, latent: LatentId) -> list[Purpose]:
        return self._of_results(lambda results: asked.purposes(results, latent, self.explainers))

    def with_replies(self, requests: Sequence[str]) -> tuple[list[Asked], str | None]:
        """With the reason where the file of replies cannot be read."""
        try:
            return self._of_replies(lambda replies: asked.with_replies(replies, requests)), None
        except (CorruptError, RunError) as error:
            return [Asked(request, (), None) for request in requests], str(error)

    @cached_property
    def explainers(self) -> list[tuple[str, str]]:
        return [] if self.tables is None else explainers(self.tables.scores.about)

    @property
    def first_explainer(self) -> tuple[str, str]:
        """Beside whose explanations latents stand where nobody is named."""
        return next(iter(self.explainers), ("", ""))

    def explaining_model(self, explainer: str) -> str:
        """The language model behind the explanations of one explainer; empty where none was asked."""
        mark = self.marks.get("explain")
        by_model = explainer in get_args(Explainer) and explainer not in TOKEN_RULES
        return mark.models.get("explainer", "") if mark and by_model else ""

    def latents(self, explainer: str, source: str) -> LatentTable | None:
        """The table of all latents beside the explanations of one explainer."""
        if self.tables is None:
            return None
        if (explainer, source) not in self._tables_of:
            of = LatentTable.of(self.tables, explainer, source)
            self._tables_of[explainer, source] = of
        return self._tables_of[explainer, source]

    def shown(self, latent: LatentId) -> Shown:
        pages, purposes = self._of_results(
            lambda results: (self._pages(results, latent), asked.purposes(results, latent, self.explainers))
        )
        cards = sorted(self._cards(pages), key=self._place_of)
        strongest = window_groups(self._strongest(latent)[0], self.vocabulary)
        portrait = portrait_of(self.directory.statistics, latent)
        return Shown(cards, strongest, portrait, self._bands(latent), purposes)

    def _pages(self, results: Results, latent: LatentId) -> list[LatentPage]:
        examples = self._examples(results, latent)
        return latent_pages(results, [examples], self.vocabulary) if examples else []

    def _of_results(self, read: Callable[[Results], T]) -> T:
        def opened() -> T:
            with Results(self.directory.results, read_only=True) as results:
                return read(results)

        return unchanged(self.directory.results, opened)

    def _of_replies(self, read: Callable[[Replies], T]) -> T:
        def opened() -> T:
            with self._contents.replies(read_only=True) as replies:
                return read(replies)

        return unchanged(self._contents.replies_file, opened)

    def _place_of(self, card: Card) -> int:
        """Where its explainer stands among all; one of which no explanation has a text stands last."""
        explainer = card.page.explainer, card.page.source
        return self.explainers.index(explainer) if explainer in self.explainers else len(self.explainers)

    @cached_property
    def _cards(self) -> Cards:
        assert self.tables is not None
        return Cards(self.tables)

    def _bands(self, latent: LatentId) -> list[dict[str, Any]]:
        assert self.tables is not None
        table = self.tables.bands
        mine = np.flatnonzero((table["coder"] == str(latent.coder)) & (table["latent"] == latent.index))
        return [plain({name: column[i] for name, column in table.items()}) for i in mine.tolist()]

    def documents(self, latent: LatentId, numbers: Sequence[int]) -> list[Document]:
        """The documents of the cache with these numbers. KeyError if there is none of that number."""
        cache, _ = self._cached(latent.coder)
        starts, firings, of = cache.corpus.context_start, cache[latent.index], cache.corpus.context_document
        found = []
        for number in numbers:
            first, last = np.searchsorted(of, (number, number + 1)).tolist()
            if first == last:
                raise KeyError(number)
            contexts = []
            for start, stop in ((int(starts[i]), int(starts[i + 1])) for i in range(first, last)):
                activations = np.zeros(stop - start, dtype=np.float32)
                mine = slice(*np.searchsorted(firings.position, (start, stop)))
                activations[firings.position[mine] - start] = firings.value[mine]
                contexts.append((cache.corpus.tokens[start:stop], activations))
            found.append(Document(number, first, contexts))
        return found

    def feature(self, coder: CoderKey, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the table of latents as a feature for Neuronpedia."""
        index = row["latent"]
        about = statistics_of(self.directory.statistics, coder, [index]).get(index, {})
        n_contexts = self._cached(coder)[0].corpus.n_contexts
        strongest, peaks = self._strongest(LatentId(coder, index))
        return neuronpedia.feature(row, about, strongest, peaks, self.config, n_contexts, self.vocabulary)

    def _strongest(self, latent: LatentId) -> tuple[list[Example], dict[int, ndarray]]:
        """Windows of each quantile, and the peaks of all of its windows. Those of the last one are kept: its page and
        what Neuronpedia takes of it need both."""
        if self._strongest_of is None or self._strongest_of[0] != latent:
            self._strongest_of = latent, *self._find_strongest(latent)
        return self._strongest_of[1:]

    def _find_strongest(self, latent: LatentId) -> tuple[list[Example], dict[int, ndarray]]:
        cache, grid = self._cached(latent.coder)
        rows, peaks, _ = grid.peaks(cache[latent.index])
        order = np.argsort(peaks, kind="stable")
        quantile = quantiles(len(order), self.config.examples.n_quantiles)
        picked = [i for q in np.unique(quantile) for i in np.flatnonzero(quantile == q)[-_STRONGEST:].tolist()]
        chosen = rows[order[picked]]
        windows = grid.windows(chosen, cache[latent.index])
        examples = [
            Example(i, row, "score", window, quantile=q)
            for i, (row, window, q) in enumerate(zip(chosen.tolist(), windows, quantile[picked].tolist(), strict=True))
        ]
        return examples, {q: peaks[order[quantile == q]] for q in np.unique(quantile).tolist()}

    def _examples(self, results: Results, latent: LatentId) -> LatentExamples | None:
        """Those in the database, with their tokens from the corpus and their activations from the cache."""
        name = str(latent.coder), latent.index
        found = results.columns(
            "SELECT * FROM examples WHERE coder = ? AND latent = ? ORDER BY example", name, text=["stratum"]
        )
        if not len(found["example"]):
            return None
        rates = results.columns("SELECT firing_rate, context_rate FROM latents WHERE coder = ? AND latent = ?", name)
        strata = results.columns("SELECT * FROM strata WHERE coder = ? AND latent = ?", name, text=["shortfall"])
        cache, grid = self._cached(latent.coder)
        windows = grid.windows(found["row"], cache[latent.index])
        columns = ("example", "row", "split", "quantile", "stratum", "source", "distance")
        examples = [
            Example(index, row, split, window, _whole(quantile), stratum, _whole(source), _known(distance))
            for (index, row, split, quantile, stratum, source, distance), window in zip(
                records(found, *columns), windows, strict=True
            )
        ]
        shares = records(strata, "stratum", "share", "n_windows", "shortfall")
        return LatentExamples(
            latent=latent,
            firing_rate=float(rates["firing_rate"][0]),
            context_rate=float(rates["context_rate"][0]),
            explain=tuple(one for one in examples if one.split == "explain"),
            score=tuple(one for one in examples if one.split == "score"),
            strata=tuple(StratumShare(name, share, n, shortfall) for name, share, n, shortfall in shares),
        )

    def _cached(self, key: CoderKey) -> tuple[LatentCache, Grid]:
        """The cache of a coder, and the grid over it."""
        name = str(key)
        if name not in self._places:
            cache = LatentCache(self.directory.cache, self._contents.coder(key), self._contents.corpus("cache"))
            window_tokens = self.config.cache.window_tokens
            grid = build_grid(cache.corpus, cache.eligible, window_tokens, self.vocabulary)
            self._places[name] = cache, grid
        return self._places[name]


def _whole(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
