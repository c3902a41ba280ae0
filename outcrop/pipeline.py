"""The stages tied to a run directory and to each other.

    tokens → train → cache → examples → explain → score → report

`Run.until(stage)` does what is missing, in order. A stage is marked as begun before its first
file and as complete after its last, so that a killed run goes on inside the stage it was in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from outcrop import config as configs
from outcrop import stages
from outcrop.config import NeighbourMeasure, RunConfig, Where
from outcrop.contents import Contents
from outcrop.database import unchanged
from outcrop.errors import BudgetError, CorruptError, OutcropError, RunError, StaleError
from outcrop.interp.clients.client import connect
from outcrop.interp.clients.counting import CountingClient
from outcrop.interp.explainers.given import require_explanations
from outcrop.judges import Connect, Judges
from outcrop.latents.neighbours import find_neighbours
from outcrop.latents.outputs import outputs
from outcrop.latents.survey import Survey, coder_row, latent_rows
from outcrop.latents.table import statistics_table
from outcrop.model.corpus import Corpus
from outcrop.model.embed import require_embedder
from outcrop.model.load import require_directory
from outcrop.progress import Progress, silent
from outcrop.report.comparison import compare
from outcrop.report.summary import summarise
from outcrop.results import Results
from outcrop.run import RunDirectory, StageMark, write_atomically
from outcrop.trackers import require as require_trackers
from outcrop.types import UNANSWERED, Explanation, Judgement, LatentExamples
from outcrop.work import Say, Work


class Run:
    """One run directory and the settings that are now wanted of it."""

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        *,
        fresh: bool = False,
        connect: Connect = connect,
        progress: Progress = silent,
        say: Say = lambda line: None,
    ) -> None:
        """`fresh` makes stale stages anew instead of refusing; `say` gets one line per stage."""
        self.config, self.directory = config, RunDirectory(path)
        self.contents = Contents(self.directory, config, progress)
        self._judges = Judges(config.judge, connect)
        self._work = Work(config, self.contents, self._judges, progress, say)
        self._fresh, self._progress, self._say = fresh, progress, say

    def until(self, last: str, *, retry_failed: bool = False) -> None:
        """Do every stage up to `last` that is not complete. Raises StaleError where settings have changed.

        `retry_failed` takes a stage for incomplete if some of its requests got no answer, and so asks these again.
        """
        self.directory.create()
        with self.directory.locked():
            require_trackers(self.config.train.track)
            for embedder in filter(None, (self.config.examples.embedder, self.config.score.embedder)):
                require_embedder(embedder)
            if self.config.score.base_model is not None:
                require_directory(self.config.score.base_model)
            if self.config.score.explanations is not None:
                require_explanations(self.config.score.explanations)
            more = self._drop_stale(last, self._unanswered(last) if retry_failed else [])
            with self._config_written():
                if more:
                    self._grow(more)
                for stage in stages.up_to(last):
                    mark = self.directory.marks().get(stage)
                    if mark and mark.complete and (stage != "report" or self.contents.report_stands):
                        self._say(f"{stage}: complete")
                    else:
                        self._forget_after(stage)
                        self._do(stage, begun=mark is not None and not mark.complete)

    def statistics(self, measures: Sequence[NeighbourMeasure]) -> pa.Table:
        """Of every latent of every coder, with its neighbours by some measures; kept as `statistics.parquet`."""
        self.until("cache")
        here = self.contents
        tables = [
            statistics_table(
                one,
                {m: find_neighbours(one.cache, np.arange(one.cache.n_latents), m) for m in measures},
                outputs(self._work.model, one.cache.placed),
            )
            for one in here.surveys
        ]
        table = pa.concat_tables(tables, promote_options="default")
        here.save_statistics(table)
        return table

    def summary(self, where: Where) -> dict[str, Any]:
        """The report's, of these latents alone. ConfigError where there are none."""
        with self.contents.results() as results:
            tables = self.contents.tables(results)
        return summarise(tables, self.contents.reconstructions(), self.config.report, where)

    def would_ask(self, last: str, *, retry_failed: bool = False) -> dict[str, CountingClient]:
        """What the stages up to `last` that ask would still send: at least this, where an explainer goes on from
        answers. RunError where nothing is cached. Nothing is asked. `retry_failed` as in `until`."""
        marks = self.directory.marks()
        stale = stages.stale_stages(self.config, marks, self._judges.changed)
        if not self._fresh:
            stages.refuse(stale, self.directory)
        anew = {*(one.stage for one in stale), *(self._unanswered(last) if retry_failed else ())}
        done = {stage for stage, mark in marks.items() if mark.complete} - anew
        if "cache" not in done:
            raise RunError(f"{self.directory.path} has no cache to ask about; `outcrop cache` makes it")
        asking = [stage for stage in stages.up_to(last) if self.config.asks(stage) and stage not in done]
        return self._work.would_ask(asking, explained="explain" in done)

    def verify(self) -> int:
        """Read the whole cache; CorruptError names the first damaged shard. Gives the number of shards."""
        mark = self.directory.marks().get("cache")
        if mark is None:
            raise RunError(f"nothing is cached in {self.directory.path}; `outcrop cache` does it")
        with self.directory.locked():
            try:
                caches = self.contents.caches()
                for cache in caches:
                    cache.verify(self._progress)
            except CorruptError:  # once the damaged shard is removed, the next run caches it again
                self.directory.mark("cache", replace(mark, complete=False))
                raise
        return sum(len(cache.shards) for cache in caches)

    # -- begun, complete, stale ---------------------------------------------------------------------------

    def _forget_after(self, stage: str) -> None:
        """Nobody shall read a report of what is no longer there."""
        self.directory.unmark(*stages.ORDER[stages.ORDER.index(stage) + 1 :])
        if stage != "report" and not stages.left_nothing("report", self.directory):
            stages.clear("report", self.directory)

    def _do(self, stage: str, *, begun: bool) -> None:
        if not begun:
            stages.clear(stage, self.directory)
        mark = self._mark(stage)
        self.directory.mark(stage, mark)
        self._say(f"{stage}: {'going on' if begun else 'begun'}")
        try:
            _DO[stage](self._work)
        except OutcropError:
            if stages.left_nothing(stage, self.directory):  # corrected settings need no --fresh then
                self.directory.unmark(stage)
            raise
        self.directory.mark(stage, replace(mark, complete=True))

    @contextmanager
    def _config_written(self) -> Iterator[None]:
        """The settings stand in the directory before anything is made with them; refused ones leave it again."""
        path, data = self.directory.config, configs.dump(self.config).encode()
        before, marks = path.read_bytes() if path.exists() else None, self.directory.marks()
        if before != data:
            write_atomically(path, data)
        try:
            yield
        except BudgetError:  # refuses nothing
            raise
        except OutcropError:
            if self.directory.marks() == marks:
                path.unlink() if before is None else write_atomically(path, before)
            raise

    def _drop_stale(self, last: str, unanswered: list[str]) -> dict[str, Corpus] | None:
        """Gives the text where more of it is to be cached. Raises before anything is changed."""
        stale = stages.stale_stages(self.config, self.directory.marks(), self._judges.changed)
        if not self._fresh:
            stages.refuse(stale, self.directory)
        anew = [*(staleness.stage for staleness in stale), *unanswered]
        done = {stage for stage, mark in self.directory.marks().items() if mark.complete} - {*anew}
        self._require_at_hand([stage for stage in stages.up_to(last) if stage not in done])
        for staleness in stale:
            self._say(f"{staleness.stage}: to be made anew, {staleness.reason}")
        for stage in unanswered:
            self._say(f"{stage}: requests without an answer are asked again")
        more = self._more_text() if stages.cache_grows(self.config, self.directory.marks()) else None
        self.directory.unmark(*anew)
        if "examples" in anew:
            self.directory.statistics.unlink(missing_ok=True)  # they are of other windows or another selection
        return more

    def _more_text(self) -> dict[str, Corpus]:
        """The text, with more for the cache. StaleError where the rest would not be dealt as before."""
        corpora = self._work.dealt()
        for part, corpus in corpora.items():
            before = self.contents.corpus(part)
            if (part != "cache" and corpus.hash != before.hash) or not corpus.continues(before):
                raise StaleError(
                    f"{self.config.text.path} is not the text that {self.directory.path} was made with: its {part} "
                    "part differs; another --out starts a new run"
                )
        return corpora

    def _grow(self, corpora: dict[str, Corpus]) -> None:
        """Put more text behind that of the cache."""
        self._say("tokens: more text for the cache")
        marks = self.directory.marks()
        if "cache" in marks:
            self.directory.mark("cache", replace(marks["cache"], complete=False))
        self.contents.save_corpora(corpora, self.contents.vocabulary)
        self.directory.statistics.unlink(missing_ok=True)  # they are those of less text
        self.directory.mark("tokens", replace(self._mark("tokens"), complete=True))

    def _unanswered(self, last: str) -> list[str]:
        """The complete stages up to `last` of which some request has no answer among the replies, or has one that came
        behind its failure."""
        marks = self.directory.marks()
        done = [stage for stage in stages.up_to(last) if stage in _ANSWERS and stage in marks]
        if not done:
            return []
        with self.contents.results() as results, self.contents.replies() as replies:
            failed = {stage: results.failed_requests(*_ANSWERS[stage]) for stage in done if marks[stage].complete}
            return [
                stage
                for stage, requests in failed.items()
                if any(kind in UNANSWERED or replies.get(request) is None for request, kind in requests)
            ]

    def _require_at_hand(self, left: Sequence[str]) -> None:
        """That no judge is given, or that it does not answer, is told before any work, if one will be needed; and what
        the first of the stages that are left takes from elsewhere is loaded before anything is discarded."""
        asked = [role for stage in left for role in self.config.asks(stage)]
        for role in asked:
            self._judges.require(role)
        if asked and self.config.judge.replies is not None:  # that this file cannot be used is told now
            self.contents.replies().close()
        if left and left[0] in ("explain", "score"):
            self._work.require(left[0])

    def _mark(self, stage: str) -> StageMark:
        """Of a stage that is begun."""
        roles = self.config.asks(stage)
        models = {role: self._judges.client(role).model for role in roles}
        addresses = {role: self._judges.address(role) for role in roles}
        return StageMark(stages.settings_of(stage, self.config), complete=False, models=models, addresses=addresses)


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """What differs between the scores of two runs (`report.comparison`), both of which are only read. RunError where
    one has none. Latents are compared one by one where coders' weights are the same, whatever the coders' names."""
    contents = [_scored(path) for path in (first, second)]
    mine, others = ({placed.hash_of_content: str(placed.key) for placed in of.coders} for of in contents)
    tables = [unchanged(of.directory.results, of.tables_as_they_are) for of in contents]
    same = {name: others[content] for content, name in mine.items() if content in others}
    return compare(*tables, same_coders=same, confidence=contents[0].confidence)


def _scored(path: Path) -> Contents:
    if not path.exists():
        raise RunError(f"there is no run directory {path}")
    directory = RunDirectory(path)
    score = directory.marks().get("score")
    if score is None or not score.complete:
        raise RunError(f"{path} is no run whose scoring is complete; `outcrop score` completes it")
    return Contents(directory, configs.load(directory.config), silent)


_DO: dict[str, Callable[[Work], None]] = {
    "tokens": Work.tokens,
    "train": Work.train,
    "cache": Work.cache,
    "examples": Work.examples,
    "explain": Work.explain,
    "score": Work.score,
    "report": Work.report,
}

_ANSWERS = {"explain": ("explanations",), "score": ("judgements", "relations")}  # the tables of each stage that asks


def tabulate(
    surveys: Iterable[Survey],
    examples: Iterable[LatentExamples],
    explanations: Iterable[Explanation],
    judgements: Iterable[Judgement],
) -> Results:
    """A results database, gone once closed, of stages that were run without a run directory; for `read_tables`."""
    results = Results()
    for one in surveys:
        results.add_coder(coder_row(one), latent_rows(one))
    results.add_examples(examples)
    results.add_explanations(explanations)
    results.add_judgements(judgements)
    return results
