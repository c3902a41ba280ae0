"""Which latents fire on which token of a text that a reader types. Models are loaded when they are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from outcrop.coders.placed import PlacedCoder
from outcrop.config import ModelConfig, RunConfig
from outcrop.errors import ConfigError, TextError
from outcrop.model.activations import activations
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.tokens import deal
from outcrop.report.windows import Piece, pieces_of
from outcrop.types import CoderKey, Vocabulary, within_norm

LONGEST = 4_000  # characters
SHOWN = 30  # latents of a coder


@dataclass(frozen=True)
class Fired:
    """One latent on a text of n tokens."""

    coder: CoderKey
    latent: int
    activations: Float[ndarray, "n"]

    @property
    def peak(self) -> float:
        return float(self.activations.max())


@dataclass(frozen=True)
class Tried:
    """The tokens of a text, as the model was given them, and the latents that fire most on them, coder by coder."""

    tokens: Int[ndarray, "n"]
    fired: list[Fired]

    def pieces(self, fired: Fired, vocabulary: Vocabulary) -> tuple[Piece, ...]:
        return pieces_of(self.tokens, fired.activations, fired.peak, vocabulary, None)


class Live:
    """The language models of the runs that are served."""

    def __init__(self) -> None:
        self._models: dict[ModelConfig, LanguageModel] = {}
        self._lock = Lock()

    def tried(self, config: RunConfig, coders: Sequence[PlacedCoder], text: str) -> Tried:
        """ConfigError for a text of less than two tokens, or of more than there is room for."""
        if len(text) > LONGEST:
            raise ConfigError(f"the text has {len(text):,} characters; {LONGEST:,} at most are tried at once")
        with self._lock:
            model = self._models.get(config.model) or load_model(config.model)
            self._models[config.model] = model
            corpus = _corpus(model, config, text)
            return Tried(corpus.tokens, [one for coder in coders for one in _fired(model, config, corpus, coder)])


def _corpus(model: LanguageModel, config: RunConfig, text: str) -> Corpus:
    try:
        return deal([text], model.tokenizer, config.text, {"text": 1})["text"]
    except TextError:
        raise ConfigError("the text has less than two tokens; type a longer one") from None


@torch.no_grad()
def _fired(model: LanguageModel, config: RunConfig, corpus: Corpus, placed: PlacedCoder) -> list[Fired]:
    """The latents with the highest peaks, the highest first. As in the cache, sinks and first positions reach none."""
    n, place = len(corpus.tokens), placed.key.source
    found: dict[int, ndarray] = {}
    for seen in activations(model, corpus, range(corpus.n_contexts), [place], config.model.batch_tokens):
        x = seen.at[place].float()
        kept = within_norm(x, placed.max_norm)
        codes = placed.coder.encode(x[kept])
        token = np.repeat(seen.position[kept.cpu().numpy()], codes.indptr.diff().cpu().numpy())
        for at, latent, value in zip(token, codes.indices.tolist(), codes.values.tolist(), strict=True):
            found.setdefault(latent, np.zeros(n))[at] = value
    fired = [Fired(placed.key, latent, values) for latent, values in found.items()]
    return sorted(fired, key=lambda one: -one.peak)[:SHOWN]
