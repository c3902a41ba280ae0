"""An embedder that counts letters: (e, o). Cosines can be had by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from outcrop.interp.scorers.embedding import embedding_scores
from outcrop.interp.scorers.judging import Arm
from outcrop.model.embed import Embedder
from outcrop.types import Example, Explanation, LatentExamples, Vocabulary
from tests.interp.conftest import latent, window


@dataclass
class Letters:
    seen: list[str] = field(default_factory=list)

    def encode(self, texts: Sequence[str], **_: Any) -> ndarray:
        self.seen += texts
        return np.array([[float(text.count("e")), float(text.count("o"))] for text in texts])


APPLE = Example(0, 0, "score", window(" apple"), quantile=1)  # (1, 0)
HOUSE = Example(1, 1, "score", window(" house"), stratum="random")  # (1, 1)
NOTHING = Example(2, 2, "score", window('"'), stratum="random")  # has no direction


def arms(one: LatentExamples, text: str, other: str) -> list[Arm]:
    said = [Explanation(one.latent, "default", "all", said, "hash") for said in (text, other)]
    return [
        Arm("plain", one, said[0], "default", "all"),
        Arm("base_rate", one, said[0], "default", "all"),
        Arm("other", one, said[1], "default", "all"),
        Arm("none", one),
    ]


def test_the_cosine_of_explanation_and_window(vocabulary: Vocabulary) -> None:
    one = replace(latent(), score=(APPLE, HOUSE))
    found = list(embedding_scores(arms(one, "e", "o"), Embedder(Letters(), "letters"), vocabulary))
    assert [(j.scorer, j.arm, j.explainer, j.source, j.example) for j in found] == [
        ("embedding", arm, "default", "all", example) for arm in ("plain", "other") for example in (0, 1)
    ]
    measured = [value for j in found for value in j.measured or ()]
    assert measured == pytest.approx([1, np.sqrt(0.5), 0, np.sqrt(0.5)])
    assert all(j.probability is None and j.predicted is None and j.failure is None for j in found)


def test_each_different_text_is_embedded_once(vocabulary: Vocabulary) -> None:
    module = Letters()
    one, two = replace(latent(0), score=(APPLE, HOUSE)), replace(latent(1), score=(HOUSE, APPLE))
    assert (
        len(list(embedding_scores(arms(one, "e", "o") + arms(two, "o", "e"), Embedder(module, "l"), vocabulary))) == 8
    )
    assert sorted(module.seen) == [" apple", " house", "e", "o"]


def test_a_text_without_an_embedding_fails_alone(vocabulary: Vocabulary) -> None:
    one = replace(latent(), score=(APPLE, NOTHING, HOUSE))
    found = list(embedding_scores(arms(one, "e", "x"), Embedder(Letters(), "letters"), vocabulary))
    assert [j.failure is None for j in found] == [True, False, True, False, False, False]
    assert found[1].failure is not None and found[1].failure.kind == "input" and found[1].measured is None
