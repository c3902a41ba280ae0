"""The stages tied to a run directory and to each other.

    tokens → train → cache → examples → explain → score → report

`Run.until(stage)` does what is missing, in order. A stage is marked as begun before its first
file and as complete after its last, so that a killed run goes on inside the stage it was in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from outcrop import config as configs
from outcrop import stages
from outcrop.coders.weights import PlacedCoder, load_coder, save_coder
from outcrop.config import JudgeConfig, RunConfig
from outcrop.errors import CoderError, ConfigError, CorruptError, OutcropError
from outcrop.interp.client import Client, RememberingClient, connect
from outcrop.interp.detection import detect
from outcrop.interp.explain import explain
from outcrop.interp.token_baseline import token_baseline
from outcrop.latents.cache import LatentCache, cache_latents, open_cache
from outcrop.latents.examples import build_examples, token_evidence
from outcrop.latents.survey import Survey, coder_row, latent_rows, survey
from outcrop.model.corpus import Corpus, load_corpus, load_vocabulary, save_corpus, save_vocabulary
from outcrop.model.hooks import find_hookpoints
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.text import read_documents, shuffled
from outcrop.model.tokens import deal, vocabulary
from outcrop.progress import Progress, silent
from outcrop.replies import Replies
from outcrop.report.page import latent_pages, render_page
from outcrop.report.summary import summarise
from outcrop.results import Results
from outcrop.run import RunDirectory, StageMark, write_atomically
from outcrop.train.loop import Trained, evaluate_coders, train
from outcrop.types import (
    CoderKey,
    Explanation,
    Judgement,
    LatentExamples,
    Reconstruction,
    Vocabulary,
)

Connect = Callable[[str, str | None, JudgeConfig], Client]
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
        self._fresh, self._connect, self._progress, self._say = fresh, connect, progress, say

    def until(self, last: str) -> None:
        """Do every stage up to `last` that is not complete. Raises StaleError where settings have changed."""
        self.directory.create()
        with self.directory.locked():
            self._drop_stale(last)
            self._write_config()
            for stage in stages.ORDER[: stages.ORDER.index(last) + 1]:
                mark = self.directory.marks().get(stage)
                if mark and mark.complete:
                    self._say(f"{stage}: complete")
                else:
                    self._do(stage, begun=mark is not None)

    def summary(self) -> dict[str, Any]:
        """What the report stage found, as in `report/summary.json`."""
        return json.loads(self.directory.summary.read_text(encoding="utf-8"))

    # -- the stages ---------------------------------------------------------------------------------------

    def _tokens(self) -> None:
        config = self.config
        wanted = {"held_out": config.train.held_out_tokens, "cache": config.cache.tokens}
        if not self._given_coders:  # and what is wrong with hookpoints or coders is told before any work
            wanted["train"] = config.train.tokens
        generator = np.random.default_rng(config.seed)
        documents = shuffled(read_documents(config.text), config.text.shuffle_documents, generator)
        self.directory.tokens.mkdir(exist_ok=True)
        for part, corpus in deal(documents, self._model.tokenizer, config.text, wanted).items():
            save_corpus(corpus, self._part(part))
        save_vocabulary(vocabulary(self._model.tokenizer), self.directory.tokens / "vocabulary.safetensors")

    def _train(self) -> None:
        coder = self.config.coder
        if coder.path is None:
            trained = train(
                self._model,
                self._corpus("train"),
                self._corpus("held_out"),
                dict.fromkeys(self._coder_keys, coder),
                self.config.train,
                seed=self.config.seed,
                batch_tokens=self.config.model.batch_tokens,
                checkpoint_directory=self.directory.checkpoints,
                log=self._log,
                progress=self._progress,
            )
        else:
            trained = evaluate_coders(
                self._model,
                self._corpus("held_out"),
                self._given_coders,
                self.config.train,
                batch_tokens=self.config.model.batch_tokens,
                progress=self._progress,
            )
        for one in trained:
            self._save_coder(one)

    def _cache(self) -> None:
        cache_latents(
            self._model,
            self._corpus("cache"),
            self._coders,
            self.directory.cache,
            self.config.cache,
            batch_tokens=self.config.model.batch_tokens,
            progress=self._progress,
        )

    def _examples(self) -> None:
        with self._results() as results:
            results.clear("coders", "latents", "strata", "examples", "explanations", "judgements")
            for one in self._surveys:
                results.add_coder(coder_row(one), latent_rows(one))
            results.add_examples(self._latent_examples)

    def _explain(self) -> None:
        with self._results() as results, Replies(self.directory.replies) as replies:
            results.clear("explanations", "judgements")
            client = RememberingClient(self._client("explain"), replies)
            found = explain(
                self._latent_examples, client, self._vocabulary, self.config.explain, progress=self._progress
            )
            for group in _grouped(found):
                results.add_explanations(group)

    def _score(self) -> None:
        with self._results() as results, Replies(self.directory.replies) as replies:
            results.clear("judgements")
            results.add_judgements(token_baseline(self._latent_examples, chain(*map(token_evidence, self._surveys))))
            client = RememberingClient(self._client("score"), replies)
            found = detect(
                self._latent_examples,
                results.explanations(),
                client,
                self._vocabulary,
                self.config.score,
                progress=self._progress,
            )
            for group in _grouped(found):
                results.add_judgements(group)

    def _report(self) -> None:
        with self._results() as results:
            summary = summarise(results, self.reconstructions(), self.config.report)
            page = render_page(summary, latent_pages(results, self._latent_examples, self._vocabulary))
        self.directory.report.mkdir(exist_ok=True)
        write_atomically(self.directory.summary, (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())
        write_atomically(self.directory.page, page.encode())

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
        self.directory.mark(stage, StageMark(mark.settings, complete=True, model=mark.model, address=mark.address))

    def _write_config(self) -> None:
        path, data = self.directory.config, configs.dump(self.config).encode()
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)

    def _drop_stale(self, last: str) -> None:
        """Raises before anything is changed."""
        stale = stages.stale_stages(self.config, self.directory.marks(), self._who_answers)
        if not self._fresh:
            stages.refuse(stale, self.directory)
        self._require_judge(last, [staleness.stage for staleness in stale])
        for staleness in stale:
            self._say(f"{staleness.stage}: to be made anew, {staleness.reason}")
        self.directory.unmark(*(staleness.stage for staleness in stale))

    def _require_judge(self, last: str, stale: list[str]) -> None:
        """That none is given is told before any work, if one will be needed."""
        marks = self.directory.marks()
        for stage in ("explain", "score"):
            done = stage in marks and marks[stage].complete and stage not in stale
            if not done and stages.ORDER.index(stage) <= stages.ORDER.index(last):
                self._address(stage)

    def _who(self, stage: str) -> dict[str, str]:
        """The language model that does a stage, for its mark."""
        if stage not in ("explain", "score"):
            return {}
        return {"model": self._client(stage).model, "address": self._address(stage)}

    def _who_answers(self, stage: str) -> str | None:
        """The identity of a stage's language model, asked only where another address is given than before."""
        mark = self.directory.marks()[stage]
        judge = self.config.judge
        if mark.model is None or (judge.name is None and judge.explainer is None):
            return None
        named = judge.explainer_model or judge.model if stage == "explain" else judge.model
        if mark.complete and mark.address == self._address(stage) and named in (None, mark.model):
            return None
        return self._client(stage).model

    # -- what the stages read ------------------------------------------------------------------------------

    @cached_property
    def _model(self) -> LanguageModel:
        return load_model(self.config.model)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return load_vocabulary(self.directory.tokens / "vocabulary.safetensors")

    @cached_property
    def _coders(self) -> list[PlacedCoder]:
        return [
            PlacedCoder(CoderKey.parse(path.name), *load_coder(path))
            for path in sorted(self.directory.coders.iterdir())
        ]

    def _open_cache(self, placed: PlacedCoder, corpus: Corpus) -> LatentCache:
        try:
            return open_cache(self.directory.cache, placed, corpus)
        except CorruptError:
            # Once the damaged shard is removed, the next run caches it again.
            self.directory.mark("cache", replace(self.directory.marks()["cache"], complete=False))
            raise

    @cached_property
    def _surveys(self) -> list[Survey]:
        corpus, config = self._corpus("cache"), self.config
        return [
            survey(
                self._open_cache(placed, corpus),
                self._vocabulary,
                config.select,
                config.examples,
                window_tokens=config.cache.window_tokens,
                seed=config.seed,
            )
            for placed in self._coders
        ]

    @cached_property
    def _latent_examples(self) -> list[LatentExamples]:
        return [
            examples
            for one in self._surveys
            for examples in build_examples(one, self.config.examples, seed=self.config.seed, progress=self._progress)
        ]

    def reconstructions(self) -> list[Reconstruction]:
        """How well each coder reconstructs, as measured when it was trained."""
        return [_read_reconstruction(path / _RECONSTRUCTION) for path in sorted(self.directory.coders.iterdir())]

    def _results(self) -> Results:
        return Results(self.directory.results)

    def _part(self, part: str) -> Path:
        return self.directory.tokens / f"{part}.safetensors"

    def _corpus(self, part: str) -> Corpus:
        return load_corpus(self._part(part))

    @cached_property
    def _coder_keys(self) -> list[CoderKey]:
        hookpoints = find_hookpoints(self._model.module, self.config.hookpoints)
        return [CoderKey(self.config.coder.name, h, h, self.config.seed) for h in hookpoints]

    @cached_property
    def _given_coders(self) -> list[PlacedCoder]:
        """Those of `coder.path`; none where coders are to be trained."""
        path, keys = self.config.coder.path, self._coder_keys
        return [_place(Path(path), key, alone=len(keys) == 1) for key in keys] if path else []

    def _client(self, stage: str) -> Client:
        return self._explainer if stage == "explain" else self._judge

    @cached_property
    def _judge(self) -> Client:
        return self._connect(self._address("score"), self.config.judge.model, self.config.judge)

    @cached_property
    def _explainer(self) -> Client:
        judge = self.config.judge
        if judge.explainer in (None, judge.name) and judge.explainer_model in (None, judge.model):
            return self._judge
        return self._connect(self._address("explain"), judge.explainer_model, judge)

    def _address(self, stage: str) -> str:
        judge = self.config.judge
        address = judge.explainer or judge.name if stage == "explain" else judge.name
        if address is None:
            raise ConfigError(
                "no judge is given. --judge takes the address of an OpenAI-compatible server (http://…/v1) or a "
                "transformers model; it explains and scores."
            )
        return address

    # -- what the stages write -----------------------------------------------------------------------------

    def _save_coder(self, trained: Trained) -> None:
        directory = self.directory.coders / str(trained.placed.key)
        directory.mkdir(parents=True, exist_ok=True)
        save_coder(trained.placed.coder, directory, trained.placed.max_norm)
        text = json.dumps(asdict(trained.reconstruction), indent=1)
        write_atomically(directory / _RECONSTRUCTION, (text + "\n").encode())

    def _log(self, record: dict[str, Any]) -> None:
        """Append to metrics.jsonl, in place of what a killed training had logged from this step on."""
        path = self.directory.metrics
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if not _repeats(json.loads(line), record)]
        write_atomically(path, ("\n".join([*kept, json.dumps(record)]) + "\n").encode())
        dead = ", ".join(f"{share:.1%}" for share in record["dead_share"])
        self._say(
            f"  step {record['step']} of {record['steps']}, {record['coder']}: held-out FVU {record['fvu']:.3f}, "
            f"L0 {record['l0']:.1f}, dead by layer {dead}"
        )


_DO: dict[str, Callable[[Run], None]] = {
    "tokens": Run._tokens,
    "train": Run._train,
    "cache": Run._cache,
    "examples": Run._examples,
    "explain": Run._explain,
    "score": Run._score,
    "report": Run._report,
}

_RECONSTRUCTION = "reconstruction.json"
_RECONSTRUCTIONS = TypeAdapter(Reconstruction)
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


def _repeats(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return old["coder"] == new["coder"] and old["step"] >= new["step"]


def _grouped(items: Iterator[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == _GROUP:
            yield group
            group = []
    yield group


def _place(path: Path, key: CoderKey, *, alone: bool) -> PlacedCoder:
    """The coder of one hookpoint: in `path` itself, or in the folder there that is named for the hookpoint."""
    names = (str(key.source), str(key.source).removeprefix("model."), str(key))
    candidates = [*([path] if alone else []), *(path / name for name in names)]
    for candidate in candidates:
        if (candidate / "cfg.json").exists():
            return PlacedCoder(key, *load_coder(candidate))
    raise CoderError(
        f"{path} holds no coder for {key.source}: expected cfg.json in {' or '.join(map(str, candidates))}"
    )


def _read_reconstruction(path: Path) -> Reconstruction:
    return _RECONSTRUCTIONS.validate_json(path.read_bytes())
