from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcrop.interp.prompts import Evidence, explain_messages, marked, quoted
from outcrop.types import Example, LatentExamples, Vocabulary, Window
from tests.interp.conftest import latent, window

HOSTILE = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from('<>|"\\\n[]/s\ue000\ue001\u2028')), max_size=40
)
CONTROL = re.compile(r"<[|｜]|[|｜]>|</?(s|bos|eos|start_of_turn|end_of_turn|think)>|\[/?INST\]", re.IGNORECASE)


@given(HOSTILE)
def test_any_text_becomes_one_string_on_one_line_without_marks_or_control_strings(text: str) -> None:
    line = quoted(text)
    assert isinstance(json.loads(line), str)
    assert len(line.splitlines()) == 1
    assert "<<" not in line and ">>" not in line and not CONTROL.search(line)


@given(st.lists(st.tuples(HOSTILE.map(str.encode), st.booleans()), min_size=1, max_size=8))
def test_a_window_has_exactly_the_marks_of_its_runs(tokens: list[tuple[bytes, bool]]) -> None:
    fires = np.array([fires for _, fires in tokens])
    shown = Window(np.arange(len(tokens)), fires.astype(np.float32), 0, 0, 0)
    line = marked(shown, Vocabulary(tuple(piece for piece, _ in tokens)))
    n_runs = int(fires[0]) + int((fires[1:] & ~fires[:-1]).sum())
    assert re.findall("<<|>>", line) == ["<<", ">>"] * n_runs
    assert len(line.splitlines()) == 1 and not CONTROL.search(line)


def test_plain_text_is_left_as_it_is() -> None:
    text = "if a < b > c: <div>é 漢字</div> a|b x -> y"
    assert json.loads(quoted(text)) == text


def test_runs_of_activating_tokens_are_marked_together(vocabulary: Vocabulary) -> None:
    shown = window(" the", " apple", " pear", " house", " pear", fires={1: 2.0, 2: 1.0, 4: 1.0})
    assert marked(shown, vocabulary) == '" the<< apple pear>> house<< pear>>"'


def test_marks_and_control_strings_of_the_text_are_made_harmless(vocabulary: Vocabulary) -> None:
    shown = window(" the", "<", "<", "<|im_end|>", ">>", '"', "\n", " pear", fires={2: 1.0, 7: 1.0})
    assert marked(shown, vocabulary) == r'" the‹<<‹>>‹|im_end|›››\"\n<< pear>>"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [("s", "<<s >>"), ("/s", "<</s >>"), ("|im_end|", "<<¦im_end¦>>"), ("s>x", "<<s›x>>"), ("x<s", "<<x‹s>>")],
)
def test_marks_are_no_brackets_of_a_control_string(text: str, expected: str) -> None:
    shown = Window(np.array([0]), np.ones(1, np.float32), 0, 0, 0)
    assert json.loads(marked(shown, Vocabulary((text.encode(),)))) == expected


def evidence(examples: LatentExamples) -> Evidence:
    fires, silent = (tuple(e.window for e in examples.explain if e.activating == kind) for kind in (True, False))
    return Evidence(fires, silent)


def test_the_explainer_sees_the_others_apart_and_the_strongest_window_first(vocabulary: Vocabulary) -> None:
    last = explain_messages(evidence(latent()), vocabulary)[-1].content
    parts = (
        "were marked",
        '" the<< apple>>"',
        '" the<< pear>>"',
        "without marked words",
        '" the engine"',
        "in common?",
    )
    places = [last.index(part) for part in parts]
    assert places == sorted(places)


def test_each_different_run_is_listed_once(vocabulary: Vocabulary) -> None:
    fires = {1: 1.0, 3: 1.0, 5: 1.0, 6: 1.0}
    shown = window(" the", " apple", " the", " apple", " the", " pear", "<|im_end|>", fires=fires)
    examples = replace(latent(), explain=(Example(0, 0, "explain", shown, quantile=1),))
    assert 'marked in texts: "apple, pear‹|im_end|›"\n' in explain_messages(evidence(examples), vocabulary)[-1].content


def test_nothing_of_a_text_stands_outside_quotes(vocabulary: Vocabulary) -> None:
    shown = window(" the", " apple", "<|im_end|>", " pear", fires={1: 1.0, 2: 1.0, 3: 1.0})
    examples = replace(latent(), explain=(Example(0, 0, "explain", shown, quantile=1),))
    told = Evidence((shown,), promoted=tuple(shown.tokens.tolist()))
    for shows in (evidence(examples), told):
        outside = re.sub(r'"(\\.|[^"\\])*"', "", explain_messages(shows, vocabulary)[-1].content)
        assert "marked words" in outside and not {"apple", "pear"} & set(re.findall(r"\w+", outside))


def test_the_explainer_sees_no_scored_window(vocabulary: Vocabulary) -> None:
    assert not any("house" in message.content for message in explain_messages(evidence(latent()), vocabulary))
