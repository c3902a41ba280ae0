"""The stages tied to a run directory and to each other.

    tokens → train → cache → examples → explain → score → report

`Run.until(stage)` does what is missing, in order. A stage is marked as begun before its first
file and as complete after its last, so that a killed run goes on inside the stage it was in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from outcrop import config as configs
from outcrop import stages
from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import find_coder, load_coder
from outcrop.config import CoderConfig, NeighbourMeasure, RunConfig
from outcrop.contents import Contents
from outcrop.errors import CorruptError, OutcropError, RunError, StaleError
from outcrop.interp.client import RememberingClient, connect
from outcrop.interp.explain import Promoted, explain
from outcrop.interp.score import score
from outcrop.interp.token_baseline import token_baseline
from outcrop.judges import STAGES as JUDGED
from outcrop.judges import Connect, Judges
from outcrop.latents.cache import cache_latents
from outcrop.latents.examples import token_evidence
from outcrop.latents.neighbours import find_neighbours
from outcrop.latents.outputs import outputs
from outcrop.latents.survey import Survey, coder_row, latent_rows
from outcrop.latents.table import statistics_table
from outcrop.model.corpus import Corpus
from outcrop.model.embed import require_embedder
from outcrop.model.hooks import find_places, place_widths
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.text import read_documents, shuffled
from outcrop.model.tokens import deal, vocabulary
from outcrop.progress import Progress, silent
from outcrop.report.page import latent_pages, render_page
from outcrop.report.summary import summarise
from outcrop.results import Results
from outcrop.run import RunDirectory, StageMark, write_atomically
from outcrop.trackers import Track, trackers
from outcrop.trackers import require as require_trackers
from outcrop.train.loop import evaluate_coders, train_coders
from outcrop.types import CoderKey, Explanation, Judgement, LatentExamples, LatentId

Say = Callable[[str], None]


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
        self._fresh, self._progress, self._say = fresh, progress, say

    def until(self, last: str, *, retry_failed: bool = False) -> None:
        """Do every stage up to `last` that is not complete. Raises StaleError where settings have changed.

        `retry_failed` takes a stage for incomplete if some of its requests got no answer, and so asks these again.
        """
        self.directory.create()
        with self.directory.locked():
            require_trackers(self.config.train.track)
            if self.config.examples.embedder is not None:
                require_embedder(self.config.examples.embedder)
            more = self._drop_stale(last, self._unanswered(last) if retry_failed else [])
            with self._config_written():
                if more:
                    self._grow(more)
                for stage in stages.ORDER[: stages.ORDER.index(last) + 1]:
                    mark = self.directory.marks().get(stage)
                    if mark and mark.complete:
                        self._say(f"{stage}: complete")
                    else:
                        self.directory.unmark(*stages.ORDER[stages.ORDER.index(stage) + 1 :])
                        self._do(stage, begun=mark is not None)

    def statistics(self, measures: Sequence[NeighbourMeasure]) -> pa.Table:
        """Of every latent of every coder, with its neighbours by some measures; kept as `statistics.parquet`."""
        self.until("cache")
        here = self.contents
        tables = [
            statistics_table(
                one,
                here.vocabulary,
                {m: find_neighbours(one.cache, np.arange(one.cache.n_latents), m) for m in measures},
                outputs(self._model, one.cache.placed),
            )
            for one in here.surveys
        ]
        table = pa.concat_tables(tables, promote_options="default")
        here.save_statistics(table)
        return table

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

    # -- the stages ---------------------------------------------------------------------------------------

    def _tokens(self) -> None:
        corpora = self._dealt()
        self.contents.save_corpora(corpora, vocabulary(self._model.tokenizer))

    def _dealt(self) -> dict[str, Corpus]:
        """The text, in its parts."""
        config = self.config
        texts = read_documents(config.text)  # a file that is missing is told before the model is loaded
        self._require_possible()
        wanted = {"held_out": config.train.held_out_tokens}
        if config.coder.path is None or config.train.finetune:
            wanted["train"] = config.train.tokens
        wanted["cache"] = config.cache.tokens  # the last, so that it can grow
        generator = np.random.default_rng(config.seed)
        documents = shuffled(texts, config.text.shuffle_documents, generator)
        return deal(documents, self._model.tokenizer, config.text, wanted)

    def _train(self) -> None:
        config = self.config
        self._require_possible()
        given = self._given_coders
        with trackers(config.train.track, self.directory.path, configs.to_dict(config)) as track:
            if given and not config.train.finetune:
                trained = evaluate_coders(
                    self._model,
                    self.contents.corpus("held_out"),
                    given,
                    config.train,
                    batch_tokens=config.model.batch_tokens,
                    progress=self._progress,
                )
            else:
                trained = train_coders(
                    self._model,
                    self.contents.corpus("train"),
                    self.contents.corpus("held_out"),
                    self._coders,
                    config.train,
                    given=given,
                    seed=config.seed,
                    batch_tokens=config.model.batch_tokens,
                    checkpoint_directory=self.directory.checkpoints,
                    log=lambda record: self._log(record, track),
                    say=self._say,
                    progress=self._progress,
                )
        for one in trained:
            self.contents.save_coder(one)

    def _cache(self) -> None:
        cache_latents(
            self._model,
            self.contents.corpus("cache"),
            self.contents.coders,
            self.directory.cache,
            self.config.cache,
            batch_tokens=self.config.model.batch_tokens,
            progress=self._progress,
        )

    def _examples(self) -> None:
        with self.contents.results() as results:
            results.clear("coders", "latents", "strata", "examples", "explanations", "judgements")
            for one in self.contents.surveys:
                results.add_coder(coder_row(one), latent_rows(one))
            results.add_examples(self.contents.examples)

    def _explain(self) -> None:
        here = self.contents
        with here.results() as results, here.replies() as replies:
            results.clear("explanations", "judgements")
            iterates = "iterative" in self.config.explain.explainers
            found = explain(
                here.examples,
                RememberingClient(self._judges.client("explain"), replies),
                here.vocabulary,
                self.config.explain,
                judge=RememberingClient(self._judges.client("score"), replies) if iterates else None,
                evidence=chain(*map(token_evidence, here.surveys)),
                promoted=self._promoted(),
                progress=self._progress,
            )
            for group in _grouped(found):
                results.add_explanations(group)

    def _promoted(self) -> Promoted | None:
        """The tokens that each selected latent makes the model write, if an explainer wants them."""
        config = self.config.explain
        if "output" not in config.explainers:
            return None
        found: dict[LatentId, list[int]] = {}
        for one in self.contents.surveys:
            latents = one.selection.latents
            of_coder = outputs(self._model, one.cache.placed, latents, config.n_promoted)
            if of_coder is not None:
                ids = (LatentId(one.cache.key, latent) for latent in latents.tolist())
                found |= dict(zip(ids, of_coder.raised.tolist(), strict=True))
        return found

    def _score(self) -> None:
        here = self.contents
        with here.results() as results, here.replies() as replies:
            results.clear("judgements")
            results.add_judgements(token_baseline(here.examples, chain(*map(token_evidence, here.surveys))))
            client = RememberingClient(self._judges.client("score"), replies)
            explanations = results.explanations()
            found = score(
                here.examples, explanations, client, here.vocabulary, self.config.score, progress=self._progress
            )
            for group in _grouped(found):
                results.add_judgements(group)

    def _report(self) -> None:
        here = self.contents
        with here.results() as results:
            summary = summarise(results, here.reconstructions(), self.config.report)
            page = render_page(summary, latent_pages(results, here.examples, here.vocabulary))
        here.save_report(summary, page)

    def _log(self, record: dict[str, Any], track: Track) -> None:
        self.contents.log(record)
        track(record)
        shares = [f"{share:.1%}" for share in record["dead_share"] if share is not None]
        dead = f"dead by layer {', '.join(shares)}" if shares else "too early to know what is dead"
        self._say(
            f"  step {record['step']} of {record['steps']}, {record['coder']}: held-out FVU {record['fvu']:.3f}, "
            f"L0 {record['l0']:.1f}, {dead}"
        )

    # -- begun, complete, stale ---------------------------------------------------------------------------

    def _do(self, stage: str, *, begun: bool) -> None:
        if not begun:
            stages.clear(stage, self.directory)
        mark = StageMark(stages.settings_of(stage, self.config), complete=False, **self._who(stage))
        self.directory.mark(stage, mark)
        self._say(f"{stage}: {'going on' if begun else 'begun'}")
        try:
            _DO[stage](self)
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
        except OutcropError:
            if self.directory.marks() == marks:
                path.unlink() if before is None else write_atomically(path, before)
            raise

    def _drop_stale(self, last: str, unanswered: list[str]) -> dict[str, Corpus] | None:
        """Gives the text where more of it is to be cached. Raises before anything is changed."""
        stale = stages.stale_stages(self.config, self.directory.marks(), self._model_of)
        if not self._fresh:
            stages.refuse(stale, self.directory)
        anew = [*(staleness.stage for staleness in stale), *unanswered]
        self._require_judge(last, anew)
        for staleness in stale:
            self._say(f"{staleness.stage}: to be made anew, {staleness.reason}")
        for stage in unanswered:
            self._say(f"{stage}: requests without an answer are asked again")
        more = self._more_text() if stages.cache_grows(self.config, self.directory.marks()) else None
        self.directory.unmark(*anew)
        return more

    def _more_text(self) -> dict[str, Corpus]:
        """The text, with more for the cache. StaleError where the rest would not be dealt as before."""
        corpora = self._dealt()
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
        self.directory.mark("tokens", StageMark(stages.settings_of("tokens", self.config), complete=True))

    def _unanswered(self, last: str) -> list[str]:
        """The complete stages up to `last` of which some request has no answer among the replies."""
        marks = self.directory.marks()
        done = [stage for stage in stages.ORDER[: stages.ORDER.index(last) + 1] if stage in JUDGED and stage in marks]
        if not done:
            return []
        with self.contents.results() as results, self.contents.replies() as replies:
            failed = {stage: results.failed_requests(_ANSWERS[stage]) for stage in done if marks[stage].complete}
            return [stage for stage, requests in failed.items() if any(replies.get(one) is None for one in requests)]

    def _require_judge(self, last: str, stale: list[str]) -> None:
        """That none is given, or that it does not answer, is told before any work, if one will be needed."""
        marks = self.directory.marks()
        for stage in JUDGED:
            done = stage in marks and marks[stage].complete and stage not in stale
            if not done and stages.ORDER.index(stage) <= stages.ORDER.index(last):
                self._judges.require(stage)

    def _who(self, stage: str) -> dict[str, str]:
        """The language model that does a stage, for its mark."""
        if stage not in JUDGED:
            return {}
        return {"model": self._judges.client(stage).model, "address": self._judges.address(stage)}

    def _model_of(self, stage: str) -> str | None:
        return self._judges.changed(stage, self.directory.marks()[stage])

    # -- what the first stages begin with ------------------------------------------------------------------

    @cached_property
    def _model(self) -> LanguageModel:
        return load_model(self.config.model)

    @cached_property
    def _coders(self) -> dict[CoderKey, CoderConfig]:
        """Every setting at every place with every seed."""
        places = find_places(self._model.module, self.config.hookpoints)
        settings = [self.config.coder, *self.config.more_coders]
        return {
            CoderKey(setting.name, *place, seed): setting
            for setting in settings
            for place in places
            for seed in setting.seeds or (self.config.seed,)
        }

    @cached_property
    def _given_coders(self) -> list[PlacedCoder]:
        """Those of `coder.path`; none where coders are to be trained from the start."""
        keys, path = list(self._coders), self.config.coder.path
        if path is None:
            return []
        alone = len(keys) == 1
        found = {key: load_coder(find_coder(path, key, alone=alone), transcodes=key.transcodes) for key in keys}
        return [PlacedCoder(key, *coder) for key, coder in found.items()]

    def _require_possible(self) -> None:
        """That a coder cannot be at its place is told before any work."""
        widths = place_widths(self._model, [key.place for key in self._coders])
        for placed in self._given_coders:
            placed.require_widths(*widths[placed.key.place])
            unlike = self._coders[placed.key].unlike(placed.coder.architecture)
            if unlike:
                self._say(f"  {placed.key} is as it was trained; {', '.join(unlike)} of the settings say otherwise")
        if not self._given_coders:
            for key, setting in self._coders.items():
                d_in, d_out = widths[key.place]
                SparseStack.require_possible(setting, d_in, d_out if key.transcodes else None)


_DO: dict[str, Callable[[Run], None]] = {
    "tokens": Run._tokens,
    "train": Run._train,
    "cache": Run._cache,
    "examples": Run._examples,
    "explain": Run._explain,
    "score": Run._score,
    "report": Run._report,
}

_ANSWERS = {"explain": "explanations", "score": "judgements"}  # the table of each stage that asks

_GROUP = 256  # rows of one transaction


def tabulate(
    surveys: Iterable[Survey],
    examples: Iterable[LatentExamples],
    explanations: Iterable[Explanation],
    judgements: Iterable[Judgement],
) -> Results:
    """A results database in memory, for `summarise`, of stages that were run without a run directory."""
    results = Results(":memory:")
    for one in surveys:
        results.add_coder(coder_row(one), latent_rows(one))
    results.add_examples(examples)
    results.add_explanations(explanations)
    results.add_judgements(judgements)
    return results


def _grouped(items: Iterator[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == _GROUP:
            yield group
            group = []
    yield group
