"""Four tokens to a window; the latent fires on fruit. What is marked is read off the prompt."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from outcrop.config import ScoreConfig
from outcrop.interp.scorers import fuzzing
from outcrop.interp.scorers.judging import Arm, ArmName
from outcrop.types import Example, Explanation, Reply, Vocabulary
from tests.interp.conftest import latent, window

FIRST = window(" apple", " the", " house", " the", fires={0: 1.0})
LAST = window(" the", " house", " the", " pear", fires={3: 2.0})
PAIR = window(" the", " apple", " pear", " the", fires={1: 2.0, 2: 1.0})
SILENT = window(" the", " house", " engine", " the")
MANY = ScoreConfig(windows_per_prompt=5)


def activating(*windows: object) -> tuple[Example, ...]:
    return tuple(Example(i, i, "score", one, quantile=1) for i, one in enumerate(windows))  # type: ignore[arg-type]


def silent(n: int, first: int = 10) -> tuple[Example, ...]:
    return tuple(Example(first + i, i, "score", SILENT, stratum="random") for i in range(n))


def arm(*examples: Example, text: str | None = "fruit", name: ArmName = "plain") -> Arm:
    one = replace(latent(), score=examples)
    explanation = Explanation(one.latent, "contrastive", "all", text, "hash") if text else None
    return Arm(name, one, explanation, "contrastive", "all")


def shown(one: Arm, vocabulary: Vocabulary) -> dict[tuple[str, int], str]:
    """The text of each (scorer, example)."""
    found = {}
    for question in fuzzing.questions([one], vocabulary, ScoreConfig()):
        (judgement,) = question.judgements
        text = question.request.messages[-1].content.splitlines()[0].removeprefix("Text: ")
        found[judgement.scorer, judgement.example] = json.loads(text)
    return found


def test_an_activating_window_has_its_true_marks(vocabulary: Vocabulary) -> None:
    found = shown(arm(*activating(FIRST, LAST, PAIR), *silent(1)), vocabulary)
    assert found["fuzzing", 0] == "<< apple>> the house the"
    assert found["fuzzing", 1] == " the house the<< pear>>"
    assert found["fuzzing", 2] == " the<< apple pear>> the"


def test_the_marked_words_are_named_once_each_and_cannot_end_their_quoting(vocabulary: Vocabulary) -> None:
    shown = window('"', " the", " pear", " house", '"', fires={0: 1.0, 2: 1.0, 3: 1.0, 4: 1.0})
    again = window(" pear", " the", " pear", " the", "\n", fires={0: 1.0, 2: 1.0, 4: 1.0})
    hostile, twice = (
        question.request.messages[-1].content.splitlines()[1]
        for question in fuzzing.questions([arm(*activating(shown, again))], vocabulary, ScoreConfig())
        if question.judgements[0].scorer == "fuzzing"
    )
    assert hostile == r'Marked in this text: "\"", "pear house\""'
    assert twice == r'Marked in this text: "pear", "\n"'


def test_a_silent_window_is_marked_like_some_activating_one(vocabulary: Vocabulary) -> None:
    found = shown(arm(*activating(FIRST, PAIR), *silent(40)), vocabulary)
    texts = [found["fuzzing", 10 + i] for i in range(40)]
    assert set(texts) == {"<< the>> house engine the", " the<< house engine>> the"}
    assert 8 < texts.count(texts[0]) < 32  # both patterns, with equal chances


def test_misplaced_marks_lie_where_those_of_another_activating_window_lie(vocabulary: Vocabulary) -> None:
    found = shown(arm(*activating(FIRST, LAST)), vocabulary)
    assert found["misplaced", 0] == " apple the house<< the>>"
    assert found["misplaced", 1] == "<< the>> house the pear"


def test_where_no_pattern_fits_as_many_other_tokens_are_marked(vocabulary: Vocabulary) -> None:
    found = shown(arm(*activating(PAIR, FIRST)), vocabulary)
    assert found["misplaced", 0] == "<< the>> apple pear<< the>>"  # no other window has two marks
    assert found["misplaced", 1] in (" apple<< the>> house the", " apple the<< house>> the", " apple the house<< the>>")


def test_without_other_tokens_enough_nothing_is_misplaced(vocabulary: Vocabulary) -> None:
    three = window(" apple", " pear", " pear", " the", fires={0: 1.0, 1: 1.0, 2: 1.0})
    assert set(shown(arm(*activating(three), *silent(1)), vocabulary)) == {("fuzzing", 0), ("fuzzing", 10)}


def test_without_an_activating_window_nothing_can_be_marked(vocabulary: Vocabulary) -> None:
    assert shown(arm(*silent(3)), vocabulary) == {}


def test_all_arms_see_the_same_marks(vocabulary: Vocabulary) -> None:
    examples = (*activating(FIRST, LAST, PAIR), *silent(8))
    plain, none = arm(*examples), arm(*examples, text=None, name="none")
    assert shown(plain, vocabulary) == shown(none, vocabulary)


def test_the_control_is_asked_without_a_description(vocabulary: Vocabulary) -> None:
    (question,) = fuzzing.questions([arm(*silent(1), *activating(PAIR), text=None, name="none")], vocabulary, MANY)
    assert "are the marked words what is described?" in question.request.messages[-1].content


def test_the_told_base_rate_is_that_of_tokens(vocabulary: Vocabulary) -> None:
    (question, *_) = fuzzing.questions([arm(*activating(FIRST), name="base_rate")], vocabulary, ScoreConfig())
    assert 'words "fruit"? In general about 1 in 100 words is. Answer' in question.request.messages[-1].content


def test_no_question_holds_a_window_and_its_double(vocabulary: Vocabulary) -> None:
    examples = (*activating(*[FIRST, LAST] * 10), *silent(20, first=20))
    found = list(fuzzing.questions([arm(*examples)], vocabulary, MANY))
    assert [len(question.judgements) for question in found] == [5] * 12
    assert all(len({j.example for j in question.judgements}) == 5 for question in found)
    answers = found[0].read(Reply('["Yes", "No", "No", "Yes", "No"]', None, 1, 1, 0.0))
    assert list(answers) == [True, False, False, True, False]


@pytest.mark.parametrize("scorer", ["fuzzing", "misplaced"])
def test_a_question_asks_about_the_window_whose_judgement_it_decides(vocabulary: Vocabulary, scorer: str) -> None:
    (question,) = fuzzing.questions([arm(*activating(FIRST, LAST))], vocabulary, MANY)
    lines = question.request.messages[-1].content.splitlines()
    texts = {(j.scorer, j.example): re.sub(r"^\d\. ", "", lines[2 * i]) for i, j in enumerate(question.judgements)}
    expected = {"fuzzing": "<< apple>> the house the", "misplaced": " apple the house<< the>>"}
    assert json.loads(texts[scorer, 0]) == expected[scorer]
