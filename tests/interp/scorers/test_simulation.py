from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from outcrop.config import ScoreConfig
from outcrop.interp.scorers import simulation
from outcrop.interp.scorers.judging import Arm, ArmName, Question
from outcrop.types import Example, Explanation, Failure, Reply, Vocabulary
from tests.interp.conftest import latent, window

WEAK = Example(0, 0, "score", window(" the", " pear", " pear", fires={1: 1.0, 2: 2.0}), quantile=1)
STRONG = Example(1, 1, "score", window(" apple", " the", fires={0: 4.0}), quantile=2)
HOSTILE = Example(2, 2, "score", window('"', "<|im_end|>", ">>", "\n"), stratum="random")


def asked(
    vocabulary: Vocabulary, *examples: Example, text: str | None = "fruit", name: ArmName = "plain"
) -> list[Question]:
    one = replace(latent(), score=examples)
    explanation = Explanation(one.latent, "contrastive", "all", text, "hash") if text else None
    return list(simulation.questions([Arm(name, one, explanation)], vocabulary, ScoreConfig()))


def reply(text: str) -> Reply:
    return Reply(text, None, 1, 1, 0.0)


def test_sums_are_of_activations_over_the_latents_largest_and_of_tenths(vocabulary: Vocabulary) -> None:
    """True (0, ¼, ½), predicted (0.1, 0, 1)."""
    weak, strong = asked(vocabulary, WEAK, STRONG)
    (measured,) = weak.read(reply("[1, 0, 10]"))
    assert measured == pytest.approx((3, 0.75, 1.1, 0.3125, 1.01, 0.5))
    (measured,) = strong.read(reply("Here it is: [7, 0]"))
    assert measured == pytest.approx((2, 1.0, 0.7, 1.0, 0.49, 0.7))


def test_expected_values_count_where_there_is_one_for_each_token(vocabulary: Vocabulary) -> None:
    (question,) = asked(vocabulary, WEAK)
    assert question.request.numbers_up_to == 10
    said = reply("[1, 0, 10]")
    (measured,) = question.read(replace(said, expected_numbers=(2.5, 0.5, 8.0)))
    assert measured == pytest.approx((3, 1.5, 1.1, 1.25, 0.705, 0.825))
    assert question.read(replace(said, expected_numbers=(2.5, 0.5, 8.0, 3.0))) == question.read(said)


@pytest.mark.parametrize("text", ["[1, 0]", "[1, 0, 11]", "[1, 0, -1]", '["a", 0, 1]', "[NaN, 0, 1]", "1 0 10"])
def test_an_answer_that_is_no_list_of_as_many_numbers_is_a_failure(vocabulary: Vocabulary, text: str) -> None:
    (question,) = asked(vocabulary, WEAK)
    (verdict,) = question.read(reply(text))
    assert isinstance(verdict, Failure) and verdict.kind == "unreadable"


def test_tokens_are_listed_one_by_one_and_cannot_end_the_list(vocabulary: Vocabulary) -> None:
    (question,) = asked(vocabulary, HOSTILE)
    first, _, rest = question.request.messages[-1].content.partition("\n")
    assert json.loads(first.removeprefix("Tokens: ")) == ['"', "‹|im_end|›", "››", "\n"]
    assert "4 tokens" in rest and "4 integers" in rest
    assert json.loads(question.request.schema or "")["minItems"] == 4


def test_worked_examples_have_a_number_for_each_token(vocabulary: Vocabulary) -> None:
    messages = asked(vocabulary, WEAK)[0].request.messages
    for listed, answer in zip(messages[:-1:2], messages[1::2], strict=True):
        tokens = json.loads(listed.content.partition("\n")[0].removeprefix("Tokens: "))
        assert len(json.loads(answer.content)) == len(tokens)


def test_the_control_is_asked_without_a_description_and_no_arm_is_told_a_rate(vocabulary: Vocabulary) -> None:
    (question,) = asked(vocabulary, WEAK, text=None, name="none")
    assert "how well does it match what is described, from 0" in question.request.messages[-1].content
    assert asked(vocabulary, WEAK, name="base_rate") == []


def test_a_latent_that_fires_in_no_scored_window_has_true_zeros(vocabulary: Vocabulary) -> None:
    (question,) = asked(vocabulary, HOSTILE)
    (measured,) = question.read(reply("[0, 0, 0, 10]"))
    assert measured == (4, 0, 1, 0, 1, 0) and np.isfinite(measured).all()


def test_half_of_the_windows_are_activating_from_all_quantiles_and_strata(vocabulary: Vocabulary) -> None:
    fires = [Example(i, i, "score", window(" pear", fires={0: 1.0}), quantile=1 + i // 4) for i in range(8)]
    silent = [Example(8 + i, i, "score", window(" the"), stratum="random" if i < 6 else "same_token") for i in range(8)]
    one = replace(latent(), score=(*fires, *silent))
    arm = Arm("plain", one, Explanation(one.latent, "contrastive", "all", "fruit", "hash"))

    def chosen(n: int) -> list[int]:
        found = simulation.questions([arm], vocabulary, ScoreConfig(simulation_windows=n))
        return [question.judgements[0].example for question in found]

    quantile = {example.index: example.quantile for example in one.score}
    stratum = {example.index: example.stratum for example in one.score}
    for n in (2, 4, 8):
        found = chosen(n)
        assert found == chosen(n)
        assert len(set(found)) == n
        assert sum(quantile[i] is not None for i in found) == n // 2
    assert [quantile[i] for i in chosen(4)[:2]] != [quantile[chosen(4)[0]]] * 2, "both quantiles"
    assert {stratum[i] for i in chosen(4)[2:]} == {"random", "same_token"}
    assert sorted(chosen(100)) == list(range(16))


def test_the_strongest_windows_of_a_quantile_are_simulated_as_often_as_the_weakest(vocabulary: Vocabulary) -> None:
    fires = [Example(i, i, "score", window(" pear", fires={0: 1.0 + i}), quantile=1) for i in range(8)]
    seen = np.zeros(8)
    for index in range(200):
        one = replace(latent(index), score=tuple(fires))
        arm = Arm("none", one)
        for question in simulation.questions([arm], vocabulary, ScoreConfig(simulation_windows=4)):
            seen[question.judgements[0].example] += 1
    assert seen.min() > 60
    assert seen.max() < 140
