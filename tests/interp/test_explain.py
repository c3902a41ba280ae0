from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from outcrop.config import ExplainConfig, JudgeConfig, ScoreConfig
from outcrop.interp.clients.openai import OpenAIClient
from outcrop.interp.explain import explain
from outcrop.interp.explainers.phrases import phrase
from outcrop.interp.score import score
from outcrop.interp.scorers.verdicts import yes_or_no
from outcrop.types import Explanation, Failure, Judgement, Reply, Request, Vocabulary
from tests.interp.conftest import latent
from tests.llm_server import NOT_JSON, LLMServer, Says


@dataclass
class Answering:
    """Gives every request the same answer."""

    reply: Reply | Failure
    model: str = "m"
    calls: list[int] = field(default_factory=list)

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        self.calls.append(len(requests))
        yield from ((index, self.reply) for index in reversed(range(len(requests))))


def says(text: str, *probabilities: float) -> Reply:
    return Reply(text, probabilities or None, 1, 1, 0.0)


def explained(index: int = 0, text: str | None = "fruit") -> Explanation:
    failure = None if text else Failure("empty", "")
    return Explanation(latent(index).latent, "contrastive", "all", text, "request", failure)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("names of fruit", "names of fruit"),
        ('"Names of fruit."', "Names of fruit"),
        ("Explanation: names of fruit", "names of fruit"),
        ("**Answer:** names of fruit\nbecause they are", "names of fruit"),
        ("\n\n“Fruit”\n", "Fruit"),
        ("<think>apples … pears</think>\nfruit", "fruit"),
        ("<think>apples and", ""),
        ("...\n\n---", ""),
        ('They are all related to the concept of "agriculture".', "agriculture"),
        ('The marked words have in common the meaning of "award".', "award"),
        ('The marked words "was, use" have in common the concept of "language"', "language"),
        ('The marked words have the same meaning: "molecule".', "molecule"),
        ('The marked words have a common meaning of "substance" or "element".', '"substance" or "element"'),
        ('The marked words have the same meaning, which is "of".', "of"),
        ("The marked words have in common with the topic of travel.", "travel"),
        ("the meaning of life", "life"),
        ("a common cold", "a common cold"),
        ('"rise" and "fall"', '"rise" and "fall"'),
        ('the word "disease"', 'the word "disease"'),
    ],
)
def test_a_reply_is_cleaned_to_its_phrase(reply: str, text: str) -> None:
    assert phrase(reply) == text


def test_every_latent_gets_one_explanation(vocabulary: Vocabulary) -> None:
    client = Answering(says("fruit"))
    found = list(explain([latent(0), latent(1)], client, vocabulary, ExplainConfig()))
    assert {e.latent.index: e.text for e in found} == {0: "fruit", 1: "fruit"}
    assert {(e.explainer, e.source) for e in found} == {("contrastive", "all")} and client.calls == [2]


@pytest.mark.parametrize("answer", [Failure("timeout", "late"), says(' "" '), says("<think>hm")])
def test_a_failure_is_never_an_explanation(answer: Reply | Failure, vocabulary: Vocabulary) -> None:
    (found,) = explain([latent()], Answering(answer), vocabulary, ExplainConfig())
    assert found.text is None and found.failure and found.request


def test_a_latent_without_activating_windows_is_a_failure_and_not_asked(vocabulary: Vocabulary) -> None:
    bare = replace(latent(), explain=())
    client = Answering(says("fruit"))
    (found,) = explain([bare], client, vocabulary, ExplainConfig())
    assert found.failure and found.failure.kind == "input" and client.calls == [0]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (says("Yes", 0.6, 0.2), pytest.approx(0.75)),
        (says("Maybe", 0.006, 0.003), "unreadable"),
        (says("Perhaps", 0.0, 0.0), "unreadable"),
        (says(" **Yes**, it does"), True),
        (says("no."), False),
        (says("Not at all"), "unreadable"),
        (says("nothing"), "unreadable"),
        (says("…"), "unreadable"),
    ],
)
def test_a_verdict_is_read_or_a_failure(reply: Reply, verdict: object) -> None:
    found = yes_or_no(reply)
    assert (found.kind if isinstance(found, Failure) else found) == verdict


def test_every_window_is_judged_with_and_once_without_the_explanation(vocabulary: Vocabulary) -> None:
    client = Answering(says("Yes", 0.6, 0.2))
    examples, explanations = [latent(0), latent(1)], [explained(0), explained(1)]
    found = list(score(examples, explanations, client, vocabulary, ScoreConfig(controls=("none",))))
    expected = {(i, arm, e) for i in (0, 1) for arm in ("plain", "none") for e in (3, 4, 5, 6)}
    assert {(j.latent.index, j.arm, j.example) for j in found} == expected and len(found) == 16
    assert {(j.explainer, j.source) for j in found if j.arm == "none"} == {("", "")}
    assert all(j.predicted and j.probability == pytest.approx(0.75) for j in found)
    assert client.calls == [16]


def test_what_was_not_explained_is_not_judged(vocabulary: Vocabulary) -> None:
    client = Answering(says("Yes", 0.6, 0.2))
    assert list(score([latent()], [explained(text=None)], client, vocabulary, ScoreConfig())) == []


def test_without_the_control_only_explanations_are_judged(vocabulary: Vocabulary) -> None:
    found = score([latent()], [explained()], Answering(says("no")), vocabulary, ScoreConfig(controls=()))
    assert [(j.arm, j.predicted, j.probability) for j in found] == [("plain", False, None)] * 4


def test_questions_go_out_in_bounded_portions(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outcrop.interp.scorers.judging._AT_ONCE", 3)
    client = Answering(says("Yes", 0.6, 0.2))
    assert len(list(score([latent()], [explained()], client, vocabulary, ScoreConfig()))) == 8
    assert client.calls == [3, 3, 2]


def test_a_failed_answer_is_a_judgement_with_its_reason(vocabulary: Vocabulary, quick: JudgeConfig) -> None:
    faults = [*[NOT_JSON] * 3, Says("Perhaps"), Says("Maybe so", logprobs=False)]
    with LLMServer(faults) as server:
        client = OpenAIClient(server.address, None, replace(quick, concurrency=1))
        found = list(score([latent()], [explained()], client, vocabulary, ScoreConfig(controls=())))
    assert [j.failure and j.failure.kind for j in found] == ["unreadable"] * 3 + [None]
    assert all(isinstance(j, Judgement) and (j.predicted is None) == (j.failure is not None) for j in found)
