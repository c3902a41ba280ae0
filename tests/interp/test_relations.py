"""What the judge says of pairs of explanations, and what becomes of an answer that is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from outcrop.interp.relations import relate
from outcrop.model.embed import Embedder
from outcrop.types import RELATIONS, Explanation, Failure, LatentId, Reply, Request
from tests.interp.conftest import KEY

LATENT = LatentId(KEY, 0)


@dataclass
class Letters:
    """Answers with one letter after the other, each with 0.6 of all probability, or with a text alone."""

    letters: Sequence[str]
    text_only: bool = False
    model: str = "letters"
    asked: list[Request] = field(default_factory=list)

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for i, request in enumerate(requests):
            self.asked.append(request)
            letter = self.letters[i % len(self.letters)]
            shares = None if self.text_only else tuple(0.6 if label == letter else 0.1 for label in request.labels)
            yield i, Reply(letter, shares, 9, 1, 0.0)


def explained(*bands: str, explainer: str = "bands") -> list[Explanation]:
    return [Explanation(LATENT, explainer, band, f"words about {band}", "") for band in bands]


def test_every_pair_of_bands_is_asked_about_once_in_its_order() -> None:
    client = Letters("ABCD")
    found = list(relate(explained("high", "low", "middle"), client))
    assert [(one.first, one.second) for one in found] == [("low", "middle"), ("low", "high"), ("middle", "high")]
    assert [one.relation for one in found] == ["same", "broader", "narrower"]
    assert all(one.probability == pytest.approx(0.6 / 0.9) for one in found)
    assert '1: "words about low"' in client.asked[1].messages[-1].content
    assert '2: "words about high"' in client.asked[1].messages[-1].content


def test_the_four_answers_stand_for_the_four_relations() -> None:
    for letter, relation in zip("ABCD", RELATIONS, strict=True):
        (found,) = relate(explained("low", "high"), Letters(letter, text_only=True))
        assert (found.relation, found.probability) == (relation, None)


def test_an_answer_that_is_no_letter_is_a_failure_of_that_pair() -> None:
    (found,) = relate(explained("low", "high"), Letters(["perhaps"], text_only=True))
    assert found.relation is None
    assert isinstance(found.failure, Failure) and found.failure.kind == "unreadable"


def test_what_no_band_explains_or_only_one_is_asked_nothing() -> None:
    client = Letters("A")
    failed = Explanation(LATENT, "bands", "high", None, "", Failure("timeout", ""))
    whole = Explanation(LATENT, "contrastive", "all", "fruit", "")
    assert list(relate([whole, *explained("low"), failed], client)) == []
    assert not client.asked


def test_a_text_without_an_embedding_leaves_the_others_theirs() -> None:
    class Flawed:
        def encode(self, texts: Sequence[str], **_: object) -> np.ndarray:
            return np.array([[0.0 if text == "words about low" else 1.0] for text in texts])

    found = list(relate(explained("low", "middle", "high"), Letters("A"), Embedder(Flawed(), "flawed")))
    assert {(one.first, one.second): one.cosine for one in found} == {
        ("low", "middle"): None,
        ("low", "high"): None,
        ("middle", "high"): 1.0,
    }


def test_explainers_are_not_mixed() -> None:
    found = list(relate([*explained("low"), *explained("high", explainer="others")], Letters("A")))
    assert found == []
