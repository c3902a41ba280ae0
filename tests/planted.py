"""A corpus and a cache whose latents follow known rules, and a judge that follows a rule exactly, but for its errors.

Documents are words of a Zipf background. "bank" may stand anywhere; some documents are about a river and hold "river",
too, and others about money. A *rule* gives the activation of a latent on every token. The cache is written by the
library's own shards, so that what follows (statistics, windows, strata, samples, scores) is the library's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int
from numpy import ndarray

from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture, ExamplesConfig, SelectConfig
from outcrop.interp.scorers.token_baseline import token_baseline
from outcrop.latents.cache import LatentCache
from outcrop.latents.examples import build_examples, token_evidence
from outcrop.latents.shards import Made, shard_ranges, sorted_by_latent, text_hash, write_shard
from outcrop.latents.survey import Survey, survey
from outcrop.model.corpus import Corpus
from outcrop.pipeline import tabulate
from outcrop.report.tables import Tables, read_tables
from outcrop.types import CoderKey, Explanation, Hookpoint, Judgement, LatentExamples, LatentId, Vocabulary

POINT = Hookpoint("planted")
KEY = CoderKey("planted", POINT, POINT, 0)
N_BACKGROUND, DOCUMENT, WINDOW = 400, 96, 16
BANK, RIVER, MONEY = N_BACKGROUND, N_BACKGROUND + 1, N_BACKGROUND + 2
WORDS = (*(f" w{i}" for i in range(N_BACKGROUND)), " bank", " river", " money")

Rule = Callable[[Corpus, np.random.Generator], Float32[ndarray, "n"]]


def planted_corpus(n_documents: int, generator: np.random.Generator) -> Corpus:
    """A third of the documents are about a river, a third about money."""
    share = 1 / np.arange(1, N_BACKGROUND + 1)
    tokens = generator.choice(N_BACKGROUND, size=(n_documents, DOCUMENT), p=share / share.sum())
    topic = generator.integers(3, size=n_documents)
    drawn = generator.random((n_documents, DOCUMENT))
    tokens[drawn < 0.02] = BANK
    for word, about in ((RIVER, 0), (MONEY, 1)):
        tokens[(drawn > 0.94) & (topic == about)[:, None]] = word
    starts = np.arange(n_documents + 1, dtype=np.int64) * DOCUMENT
    everywhere = np.ones(tokens.size, dtype=bool)
    return Corpus(tokens.ravel().astype(np.int32), starts, np.arange(n_documents, dtype=np.int32), everywhere)


def after(word: int, context: int, within: int) -> Rule:
    """On a word where another stands among the tokens before it, in the same document."""

    def activations(corpus: Corpus, generator: np.random.Generator) -> Float32[ndarray, "n"]:
        tokens = corpus.tokens.reshape(-1, DOCUMENT)
        seen = np.zeros(tokens.shape, dtype=bool)
        for back in range(1, within + 1):
            seen[:, back:] |= tokens[:, :-back] == context
        return _strengths((tokens == word) & seen, generator)

    return activations


def anywhere(word: int, rate: float = 1.0) -> Rule:
    """On a word, with a chance."""

    def activations(corpus: Corpus, generator: np.random.Generator) -> Float32[ndarray, "n"]:
        return _strengths((corpus.tokens == word) & (generator.random(len(corpus.tokens)) < rate), generator)

    return activations


def _strengths(fires: Bool[ndarray, "..."], generator: np.random.Generator) -> Float32[ndarray, "n"]:
    return (fires.ravel() * generator.uniform(1, 9, fires.size)).astype(np.float32)


@dataclass(frozen=True)
class Planted:
    survey: Survey
    vocabulary: Vocabulary

    def examples(self, config: ExamplesConfig, seed: int) -> list[LatentExamples]:
        return list(build_examples(self.survey, config, seed=seed))

    def tables(self, examples: Iterable[LatentExamples], judgements: Iterable[Judgement]) -> Tables:
        """With an explanation of every latent, the judgements and the token baseline."""
        examples = list(examples)
        told = [Explanation(one.latent, "contrastive", "all", "a rule", "") for one in examples]
        wanted = {one.latent for one in examples}
        evidence = (one for one in token_evidence(self.survey) if one.latent in wanted)
        baseline = token_baseline(examples, evidence)
        return read_tables(tabulate([self.survey], examples, told, [*judgements, *baseline]))


def plant(rules: Sequence[Rule], n_documents: int, directory: Path, seed: int = 0) -> Planted:
    """One latent per rule, over a corpus of its own."""
    generator = np.random.default_rng(seed)
    corpus = planted_corpus(n_documents, generator)
    coder = SparseStack(Architecture(n_latents=len(rules), k=1), 2, generator=torch.Generator().manual_seed(0))
    placed = PlacedCoder(KEY, coder.requires_grad_(False), None)
    dense = np.stack([rule(corpus, generator) for rule in rules], axis=1)
    (whole,) = shard_ranges(corpus, len(corpus.tokens))
    position, latent = np.nonzero(dense)
    entries = position.astype(np.int32), latent.astype(np.int32), dense[position, latent]
    tensors = sorted_by_latent(*entries, dense.shape, np.empty(0, np.int64))
    made = Made("planted", text_hash(corpus, whole.contexts), placed.hash, whole.start, whole.stop)
    write_shard(directory / str(KEY) / whole.name, tensors, made)
    vocabulary = Vocabulary(tuple(word.encode() for word in WORDS))
    chosen = SelectConfig(latents=tuple(range(len(rules))))
    seen = survey(LatentCache(directory, placed, corpus), vocabulary, chosen, ExamplesConfig(), window_tokens=WINDOW)
    return Planted(seen, vocabulary)


def follow(
    windows: Int[ndarray, "windows w"], word: int, errors: float | Mapping[int, float], generator: np.random.Generator
) -> Bool[ndarray, "windows"]:
    """The verdicts of a judge who is told "the word …", on every grid window: whether it stands there, but for errors
    at one rate, or at one for windows without (0) and with (1) the word."""
    holds = (windows == word).any(axis=1)
    rates = errors if isinstance(errors, Mapping) else {0: errors, 1: errors}
    return holds ^ (generator.random(len(holds)) < np.where(holds, rates[1], rates[0]))


def judgements(examples: LatentExamples, verdicts: Bool[ndarray, "windows"]) -> list[Judgement]:
    """Of the scored windows of a latent, by their rows in the grid."""
    names = (examples.latent, "detection", "plain", "contrastive", "all")
    return [
        Judgement(*names, one.index, 0.9 if verdicts[one.row] else 0.1, bool(verdicts[one.row]))
        for one in examples.score
    ]


def latent_id(index: int) -> LatentId:
    return LatentId(KEY, index)
