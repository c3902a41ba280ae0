from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from outcrop.config import ModelConfig
from outcrop.interp.scorers.judging import Arm
from outcrop.interp.scorers.surprisal import NEUTRAL, surprisal_scores
from outcrop.model.likelihood import Reader
from outcrop.model.load import load_model
from outcrop.types import Example, Explanation, Judgement, LatentExamples, Vocabulary
from tests.interp.conftest import WORDS, latent, window
from tests.tiny import write_model

SCORE = (
    Example(0, 0, "score", window(" apple", " the", fires={0: 1.0}), quantile=1),
    Example(1, 1, "score", window(" house", " the"), stratum="random"),
)


def arms(one: LatentExamples) -> list[Arm]:
    said = [Explanation(one.latent, "default", "all", text, "hash") for text in ("fruit", "buildings")]
    return [
        Arm("plain", one, said[0], "default", "all"),
        Arm("base_rate", one, said[0], "default", "all"),
        Arm("other", one, said[1], "default", "all"),
        Arm("none", one),
    ]


class Table(Reader):
    """3 nats a token; 1 less where the prefix says what is there."""

    prefixes: list[str]

    def mean_nll(self, prefix: str, texts: Sequence[str]) -> ndarray:
        self.prefixes.append(prefix)
        known = (("fruit", "apple"), ("buildings", "house"))
        return np.array([3.0 - any(said in prefix and word in text for said, word in known) for text in texts])


def table() -> Table:
    found = object.__new__(Table)
    object.__setattr__(found, "prefixes", [])
    return found


def scores(reader: Reader, vocabulary: Vocabulary, *latents: LatentExamples) -> list[Judgement]:
    return list(surprisal_scores([arm for one in latents for arm in arms(one)], reader, vocabulary))


def test_nats_saved_are_measured_for_both_arms_with_a_text(vocabulary: Vocabulary) -> None:
    found = scores(table(), vocabulary, replace(latent(), score=SCORE))
    assert [(j.scorer, j.arm, j.example, j.measured) for j in found] == [
        ("surprisal", "plain", 0, (1.0,)),
        ("surprisal", "plain", 1, (0.0,)),
        ("surprisal", "other", 0, (0.0,)),
        ("surprisal", "other", 1, (1.0,)),
    ]


def test_the_neutral_prefix_is_read_once_per_latent(vocabulary: Vocabulary) -> None:
    reader = table()
    scores(reader, vocabulary, replace(latent(0), score=SCORE), replace(latent(1), score=SCORE))
    assert [NEUTRAL in prefix for prefix in reader.prefixes] == [True, False, False] * 2


def test_a_window_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    """The last window's one token has no text, so the base model has nothing to score."""
    lm = load_model(ModelConfig(name=str(write_model(tmp_path / "tiny")), dtype="float32"))
    empty = Example(2, 2, "score", window("\n"), stratum="random")
    pieces = tuple(b"" if word == "\n" else word.encode() for word in WORDS)
    found = scores(Reader(lm, 2), Vocabulary(pieces), replace(latent(), score=(*SCORE, empty)))
    assert [j.failure is None for j in found] == [True, True, False] * 2
    assert all(j.measured and np.isfinite(j.measured[0]) for j in found if j.failure is None)
