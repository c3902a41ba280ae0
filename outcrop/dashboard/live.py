"""Which latents fire on a text that a reader types, or on one token of it. Models are loaded when first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.coders.placed import PlacedCoder
from outcrop.config import ModelConfig, RunConfig, TextConfig
from outcrop.errors import ConfigError, TextError
from outcrop.model.activations import activations
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.tokens import deal
from outcrop.report.windows import Piece, pieces_of
from outcrop.types import CoderKey, Vocabulary, within_norm

LONGEST = 4_000  # characters
SHOWN = 50  # latents of a coder


@dataclass(frozen=True)
class Fired:
    """One latent on a text of n tokens."""

    latent: int
    activations: Float[ndarray, "n"]

    @property
    def peak(self) -> float:
        return float(self.activations.max())


@dataclass(frozen=True)
class Answer:
    """Of one coder the tokens that it reads, how many latents fire, and those that fire most."""

    read: Bool[ndarray, "tokens"]
    n: int
    strongest: list[Fired]


@dataclass(frozen=True)
class Tried:
    """The tokens of a text, as the model was given them, and what fires."""

    tokens: Int[ndarray, "n"]
    answers: dict[CoderKey, Answer]

    @property
    def read(self) -> Bool[ndarray, "n"]:
        """By any coder."""
        return np.logical_or.reduce([answer.read for answer in self.answers.values()])

    def pieces(self, fired: Fired, vocabulary: Vocabulary) -> tuple[Piece, ...]:
        return pieces_of(self.tokens, fired.activations, fired.peak, vocabulary, None)


class Live:
    """The language models of the runs that are served."""

    def __init__(self) -> None:
        self._models: dict[ModelConfig, LanguageModel] = {}
        self._lock = Lock()

    def tried(self, config: RunConfig, coders: Sequence[PlacedCoder], text: str, at: int | None = None) -> Tried:
        """What fires on the text, or on its token `at`. ConfigError where there is no coder or no such token, and for a
        text without a token that coders read or of more than there is room for."""
        if not coders:
            raise ConfigError("no coder of this run is trained yet; a text can be tried once `train` is complete")
        if len(text) > LONGEST:
            raise ConfigError(f"the text has {len(text):,} characters; {LONGEST:,} at most are tried at once")
        with self._lock:
            model = self._models.get(config.model) or load_model(config.model)
            self._models[config.model] = model
            corpus = _corpus(model, config.text, text)
            if at is not None and not 0 <= at < len(corpus.tokens):
                raise ConfigError(f"the text has {len(corpus.tokens)} tokens, from 0 on; there is no token {at}")
            return _tried(model, config, corpus, coders, at)


def _corpus(model: LanguageModel, config: TextConfig, text: str) -> Corpus:
    whole = replace(config, max_document_tokens=4 * LONGEST)  # a token has a byte at least, a character four at most
    try:
        return deal([text], model.tokenizer, whole, {"text": 1})["text"]
    except TextError:
        raise ConfigError("no token of the text reaches a coder: its first does not; type a longer one") from None


@torch.no_grad()
def _tried(
    model: LanguageModel, config: RunConfig, corpus: Corpus, coders: Sequence[PlacedCoder], at: int | None
) -> Tried:
    """As in the cache, sinks and first positions reach no coder."""
    places = list(dict.fromkeys(placed.key.source for placed in coders))
    seen = list(activations(model, corpus, range(corpus.n_contexts), places, config.model.batch_tokens))
    position = np.concatenate([one.position for one in seen])
    inputs = {place: torch.cat([one.at[place] for one in seen]).to("cpu", torch.float32) for place in places}
    answers = dict[CoderKey, Answer]()
    for placed in coders:
        x = inputs[placed.key.source]
        kept = within_norm(x, placed.max_norm)
        codes = placed.coder.encode(x[kept])
        token = np.repeat(position[kept.numpy()], codes.indptr.diff().numpy())
        read = np.zeros(len(corpus.tokens), dtype=bool)
        read[position[kept.numpy()]] = True
        latent, value = codes.indices.numpy(), codes.values.numpy()
        asked = slice(None) if at is None else token == at
        peaks = np.zeros(placed.coder.n_latents, dtype=np.float32)
        np.maximum.at(peaks, latent[asked], value[asked])
        order = np.argsort(-peaks, kind="stable")[: np.count_nonzero(peaks)]
        strongest = []
        for chosen in order[:SHOWN].tolist():
            on = np.zeros(len(corpus.tokens), dtype=np.float32)
            on[token[latent == chosen]] = value[latent == chosen]
            strongest.append(Fired(chosen, on))
        answers[placed.key] = Answer(read, len(order), strongest)
    return Tried(corpus.tokens, answers)
