"""Two tokens to a window: which one does not belong, and whether the judge has found it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest

from outcrop.config import ScoreConfig
from outcrop.interp.scorers import intruder
from outcrop.interp.scorers.judging import Choice, Question, judged
from outcrop.types import Example, Failure, Reply, Stratum, Vocabulary
from tests.interp.conftest import latent, window

THREE = ScoreConfig(intruder_windows=3)
WEAK = window(" the", " pear", fires={1: 1.0})
STRONG = window(" apple", " the", fires={0: 2.0})
SILENT = window(" house", " engine")


def members(quantile: int, n: int, first: int) -> list[Example]:
    return [Example(first + i, 0, "score", WEAK if quantile == 1 else STRONG, quantile) for i in range(n)]


def silent(stratum: Stratum, n: int, first: int) -> list[Example]:
    return [Example(first + i, 0, "score", SILENT, stratum=stratum) for i in range(n)]


def asked(vocabulary: Vocabulary, *examples: list[Example]) -> list[Question]:
    one = replace(latent(), score=tuple(chain.from_iterable(examples)))
    return list(intruder.questions([one], vocabulary, THREE))


def texts(question: Question) -> list[str]:
    lines = question.request.messages[-1].content.splitlines()[:-1]
    return [json.loads(re.sub(r"^\d\. ", "", line)) for line in lines]


def reply(text: str, *probabilities: float) -> Reply:
    return Reply(text, probabilities or None, 1, 1, 0.0)


def place(question: Question) -> int:
    return next(i for i, text in enumerate(texts(question)) if "engine" in text)


def test_the_windows_of_a_quantile_are_asked_once_per_latent_in_disjoint_groups(vocabulary: Vocabulary) -> None:
    found = asked(vocabulary, members(1, 5, 0), members(2, 4, 5), silent("random", 9, 20))
    judgements = [judgement for question in found for judgement in question.judgements]
    assert Counter(judgement.source for judgement in judgements) == {"q1": 2, "q2": 2}
    assert {(j.scorer, j.arm, j.explainer) for j in judgements} == {("intruder", "plain", "")}
    assert len({judgement.example for judgement in judgements}) == 4
    assert all(judgement.example >= 20 for judgement in judgements)


def test_the_intruder_is_marked_like_the_windows_of_its_quantile(vocabulary: Vocabulary) -> None:
    weak, strong = asked(vocabulary, members(1, 2, 0), members(2, 2, 2), silent("random", 2, 20))
    assert Counter(texts(weak)) == {" the<< pear>>": 2, " house<< engine>>": 1}
    assert Counter(texts(strong)) == {"<< apple>> the": 2, "<< house>> engine": 1}


def test_a_quantile_with_fewer_windows_than_a_question_needs_has_none(vocabulary: Vocabulary) -> None:
    assert asked(vocabulary, members(1, 1, 0), silent("random", 2, 20)) == []
    assert asked(vocabulary, members(1, 4, 0)) == []


def test_intruders_come_from_all_strata_in_turn_and_again_when_they_are_used_up(vocabulary: Vocabulary) -> None:
    found = asked(vocabulary, members(1, 4, 0), members(2, 6, 4), silent("same_token", 1, 20), silent("random", 2, 30))
    examples = [question.judgements[0].example for question in found]
    assert sorted(examples[:2])[0] == 20 and sorted(examples[:2])[1] in (30, 31)
    assert set(examples[:3]) == {20, 30, 31}
    assert examples[3:] == examples[:2]
    assert len({(q.judgements[0].source, q.judgements[0].example) for q in found}) == 5


def test_no_intruder_is_seen_twice_by_one_quantile(vocabulary: Vocabulary) -> None:
    assert len(asked(vocabulary, members(1, 10, 0), silent("random", 2, 20))) == 2


def test_the_place_of_the_intruder_is_uniform(vocabulary: Vocabulary) -> None:
    found = asked(vocabulary, members(1, 600, 0), silent("random", 300, 1_000))
    assert len(found) == 300
    assert all(70 < n < 130 for n in Counter(map(place, found)).values())


def test_the_number_of_the_intruder_is_right(vocabulary: Vocabulary) -> None:
    (question,) = asked(vocabulary, members(1, 2, 0), silent("random", 1, 20))
    assert question.request.labels == ("1", "2", "3")
    said = [question.read(reply(f"{i + 1}."))[0] for i in range(3)]
    assert said == [i == place(question) for i in range(3)]
    assert isinstance(question.read(reply("4"))[0], Failure)


@pytest.mark.parametrize(("likeliest", "right"), [(True, True), (False, False)])
def test_right_is_who_finds_the_right_one_likeliest(vocabulary: Vocabulary, likeliest: bool, right: bool) -> None:
    """Of 0.4 + 0.2 + 0.2 the first is half: not more than half, but the likeliest."""
    (question,) = asked(vocabulary, members(1, 2, 0), silent("random", 1, 20))
    at = place(question) if likeliest else (place(question) + 1) % 3
    probabilities = [0.4 if i == at else 0.2 for i in range(3)]
    (choice,) = question.read(reply("", *probabilities))
    assert isinstance(choice, Choice)
    assert choice.probability == pytest.approx(0.5 if likeliest else 0.25) and choice.right is right
    judgement = judged(question.judgements[0], choice)
    assert (judgement.probability, judgement.predicted) == (choice.probability, right)
