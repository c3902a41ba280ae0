"""What each stage of a run does, from and into its run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from outcrop import config as configs
from outcrop import notes
from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import find_coder, load_coder
from outcrop.config import CoderConfig, ModelConfig, Role, RunConfig
from outcrop.contents import Contents
from outcrop.errors import StaleError
from outcrop.interp.clients.client import Client, RememberingClient
from outcrop.interp.clients.counting import CountingClient, as_long_as_it_may_be
from outcrop.interp.explain import Promoted, explain
from outcrop.interp.explainers.given import read_explanations
from outcrop.interp.relations import relate
from outcrop.interp.score import score
from outcrop.interp.scorers.token_baseline import token_baseline
from outcrop.judges import Judges
from outcrop.latents.cache import cache_latents
from outcrop.latents.examples import token_evidence
from outcrop.latents.outputs import outputs
from outcrop.latents.survey import coder_row, latent_rows
from outcrop.model.corpus import Corpus
from outcrop.model.embed import Embedder
from outcrop.model.hooks import find_places, place_widths
from outcrop.model.likelihood import Reader
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.remembered import RememberingReader
from outcrop.model.text import read_documents, shuffled
from outcrop.model.tokens import deal, vocabulary
from outcrop.progress import Progress
from outcrop.replies import Replies
from outcrop.report.page import latent_pages, render_page
from outcrop.report.plots import figure_files
from outcrop.report.summary import summarise
from outcrop.results import Results
from outcrop.schema import TABLES
from outcrop.trackers import Track, trackers
from outcrop.train.loop import evaluate_coders, train_coders
from outcrop.types import CoderKey, Explanation, LatentId

Say = Callable[[str], None]

_GROUP = 256  # rows of one transaction
_READ_AT_ONCE = 32  # windows of which the base model reads the likelihood


class Work:
    """The stages under one set of settings. What several of them begin with is made once."""

    def __init__(self, config: RunConfig, contents: Contents, judges: Judges, progress: Progress, say: Say) -> None:
        self._config, self._contents, self._judges = config, contents, judges
        self._directory, self._progress, self._say = contents.directory, progress, say

    def require(self, stage: str) -> None:
        """Load what a stage that asks or measures needs beside the run directory, which holds the examples already;
        what is wrong with it is told."""
        for role in self._config.asks(stage):
            self._judges.client(role)
        if stage == "score":
            self._given()
            self._embedder()
            _ = self._reader

    def tokens(self) -> None:
        corpora = self.dealt()
        self._contents.save_corpora(corpora, vocabulary(self.model.tokenizer))

    def dealt(self) -> dict[str, Corpus]:
        """The text, in its parts."""
        config = self._config
        texts = read_documents(config.text)  # a file that is missing is told before the model is loaded
        self._require_possible()
        wanted = {"held_out": config.train.held_out_tokens}
        if config.coder.path is None or config.train.finetune:
            wanted["train"] = config.train.tokens
        wanted["cache"] = config.cache.tokens  # the last, so that it can grow
        generator = np.random.default_rng(config.seed)
        documents = shuffled(texts, config.text.shuffle_documents, generator)
        return deal(documents, self.model.tokenizer, config.text, wanted)

    def train(self) -> None:
        config = self._config
        self._require_possible()
        given = self._given_coders
        with trackers(config.train.track, self._directory.path, configs.to_dict(config)) as track:
            if given and not config.train.finetune:
                trained = evaluate_coders(
                    self.model,
                    self._contents.corpus("held_out"),
                    given,
                    config.train,
                    batch_tokens=config.model.batch_tokens,
                    progress=self._progress,
                )
            else:
                trained = train_coders(
                    self.model,
                    self._contents.corpus("train"),
                    self._contents.corpus("held_out"),
                    self._coders,
                    config.train,
                    given=given,
                    seed=config.seed,
                    batch_tokens=config.model.batch_tokens,
                    checkpoint_directory=self._directory.checkpoints,
                    log=lambda record: self._log(record, track),
                    say=self._say,
                    progress=self._progress,
                )
        for one in trained:
            self._contents.save_coder(one)

    def cache(self) -> None:
        cache_latents(
            self.model,
            self._contents.corpus("cache"),
            self._contents.coders,
            self._directory.cache,
            self._config.cache,
            batch_tokens=self._config.model.batch_tokens,
            progress=self._progress,
        )

    def examples(self) -> None:
        with self._contents.results() as results:
            results.clear(*TABLES)
            for one in self._contents.surveys:
                results.add_coder(coder_row(one), latent_rows(one))
            results.add_examples(self._contents.examples)

    def explain(self) -> None:
        here = self._contents
        with here.results() as results, here.replies() as replies:
            self._require_the_same_examples(results)
            results.clear("explanations", "judgements", "relations")
            clients = self._clients("explain", replies)
            requests = set[str]()
            for group in _grouped(self._explained(clients.get("explainer"), clients.get("judge"))):
                results.add_explanations(group)
                requests |= {one.request for one in group if one.request}
            self._tell(notes.failures(results, "explanations"))
            self._tell(notes.cut_off(requests, replies, self._config.explain))

    def _tell(self, note: str | None) -> None:
        if note is not None:
            self._say(f"  {note}")

    def _require_the_same_examples(self, results: Results) -> None:
        """StaleError where the windows that are drawn now are not those of the stage examples."""
        drawn = {
            (str(one.latent.coder), one.latent.index, example.index, example.row)
            for one in self._contents.examples
            for example in (*one.explain, *one.score)
        }
        if drawn != results.drawn():
            raise StaleError(
                f"{self._directory.path} holds other windows than are drawn now: another version of outcrop drew them. "
                "Start a new run directory; with --judge.replies it takes the answers along"
            )

    def _clients(self, stage: str, replies: Replies) -> dict[Role, Client]:
        return {role: RememberingClient(self._judges.client(role), replies) for role in self._config.asks(stage)}

    def would_ask(self, asking: Sequence[str], *, explained: bool) -> dict[str, CountingClient]:
        """Stage → what it would ask. Where nothing is explained yet, explanations are as long as they may be."""
        here, config, counts = self._contents, self._config, dict[str, CountingClient]()
        with here.replies() as replies:
            for stage in asking:
                counts[stage] = CountingClient(self._judges.model(self._config.asks(stage)[0]), replies)
            if explained:
                with here.results() as results:
                    found = [one for one in results.explanations() if one.explainer in config.explain.explainers]
            else:
                if "iterative" in config.explain.explainers:
                    counts["iterative’s trials"] = CountingClient(self._judges.model("judge"), replies)
                found = [*self._explained(counts.get("explain"), counts.get("iterative’s trials"))]
            explanations = [*(as_long_as_it_may_be(one, config.explain.max_tokens) for one in found), *self._given()]
            if "score" in counts:
                asked = replace(config.score, scorers=config.score.asking)
                for _ in score(here.examples, explanations, counts["score"], here.vocabulary, asked, self._progress):
                    pass
                if asked.relate:
                    for _ in relate(explanations, counts["score"]):
                        pass
        return counts

    def _given(self) -> list[Explanation]:
        """Explanations that others wrote."""
        path = self._config.score.explanations
        return [] if path is None else read_explanations(path, {one.latent for one in self._contents.examples})

    def _explained(self, client: Client | None, judge: Client | None) -> Iterator[Explanation]:
        here = self._contents
        return explain(
            here.examples,
            client,
            here.vocabulary,
            self._config.explain,
            judge=judge,
            evidence=chain(*map(token_evidence, here.surveys)),
            promoted=self._promoted(),
            progress=self._progress,
        )

    def _promoted(self) -> Promoted | None:
        """The tokens that each selected latent makes the model write, if an explainer wants them."""
        config = self._config.explain
        if "output" not in config.explainers:
            return None
        found: dict[LatentId, list[int]] = {}
        for one in self._contents.surveys:
            latents = one.selection.latents
            of_coder = outputs(self.model, one.cache.placed, latents, config.n_promoted)
            if of_coder is not None:
                ids = (LatentId(one.cache.key, latent) for latent in latents.tolist())
                found |= dict(zip(ids, of_coder.raised.tolist(), strict=True))
        return found

    def score(self) -> None:
        here = self._contents
        with here.results() as results, here.replies() as replies:
            self._require_the_same_examples(results)
            given = self._given()
            results.clear("judgements", "relations")
            results.add_judgements(token_baseline(here.examples, chain(*map(token_evidence, here.surveys))))
            client = self._clients("score", replies).get("judge")
            results.keep_explainers(self._config.explain.explainers)
            results.add_explanations(given)
            explanations = results.explanations()
            self._tell(notes.missing_controls(here.examples, explanations, self._config.score))
            found = score(
                here.examples,
                explanations,
                client,
                here.vocabulary,
                self._config.score,
                self._progress,
                embedder=self._embedder(),
                reader=self._reader,
            )
            for group in _grouped(found):
                results.add_judgements(group)
            self._tell(notes.failures(results, "judgements"))
            if self._config.score.relate and client is not None:
                for related in _grouped(relate(explanations, client, self._embedder(), self._progress)):
                    results.add_relations(related)
                self._tell(notes.failures(results, "relations"))

    def _embedder(self) -> Embedder | None:
        config = self._config.score
        wanted = config.relate or "embedding" in config.scorers
        return self._contents.embedder(config.embedder) if wanted and config.embedder is not None else None

    @cached_property
    def _reader(self) -> RememberingReader | None:
        config = self._config
        if "surprisal" not in config.score.scorers or config.score.base_model is None:
            return None
        model = load_model(ModelConfig(config.score.base_model, device=config.model.device))
        return RememberingReader(Reader(model, _READ_AT_ONCE), self._directory.likelihoods)

    def report(self) -> None:
        here = self._contents
        with here.results() as results:
            self._require_the_same_examples(results)
            tables = here.tables(results)
            summary = summarise(tables, here.reconstructions(), self._config.report)
            page = render_page(summary, tables, latent_pages(results, here.examples, here.vocabulary))
        here.save_report(summary, page, figure_files(summary, tables))

    def _log(self, record: dict[str, Any], track: Track) -> None:
        self._contents.log(record)
        track(record)
        shares = [f"{share:.1%}" for share in record["dead_share"] if share is not None]
        dead = f"dead by layer {', '.join(shares)}" if shares else "too early to know what is dead"
        self._say(
            f"  step {record['step']} of {record['steps']}, {record['coder']}: held-out FVU {record['fvu']:.3f}, "
            f"L0 {record['l0']:.1f}, {dead}"
        )

    @cached_property
    def model(self) -> LanguageModel:
        return load_model(self._config.model)

    @cached_property
    def _coders(self) -> dict[CoderKey, CoderConfig]:
        """Every setting at every place with every seed."""
        places = find_places(self.model.module, self._config.hookpoints)
        settings = [self._config.coder, *self._config.more_coders]
        return {
            CoderKey(setting.name, *place, seed): setting
            for setting in settings
            for place in places
            for seed in setting.seeds or (self._config.seed,)
        }

    @cached_property
    def _given_coders(self) -> list[PlacedCoder]:
        """Those of `coder.path`; none where coders are to be trained from the start."""
        keys, path = list(self._coders), self._config.coder.path
        if path is None:
            return []
        alone = len(keys) == 1
        found = {key: load_coder(find_coder(path, key, alone=alone), transcodes=key.transcodes) for key in keys}
        return [PlacedCoder(key, *coder) for key, coder in found.items()]

    def _require_possible(self) -> None:
        """That a coder cannot be at its place is told before any work."""
        widths = place_widths(self.model, [key.place for key in self._coders])
        for placed in self._given_coders:
            placed.require_widths(*widths[placed.key.place])
            unlike = self._coders[placed.key].unlike(placed.coder.architecture)
            if unlike:
                self._say(f"  {placed.key} is as it was trained; {', '.join(unlike)} of the settings say otherwise")
        if not self._given_coders:
            for key, setting in self._coders.items():
                d_in, d_out = widths[key.place]
                SparseStack.require_possible(setting, d_in, d_out if key.transcodes else None)


def _grouped(items: Iterator[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == _GROUP:
            yield group
            group = []
    yield group
