"""Whatever judges and servers say: no reader raises, and no fault that passes changes an answer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outcrop.config import ExplainConfig, JudgeConfig, ScoreConfig
from outcrop.interp.clients.client import RememberingClient, connect
from outcrop.interp.clients.openai import read_completion
from outcrop.interp.explain import explain
from outcrop.interp.score import score
from outcrop.interp.scorers.verdicts import json_list, number_list, one_of, yes_or_no, yes_or_no_list
from outcrop.replies import Replies
from outcrop.results import Results
from outcrop.types import Example, Failure, LatentExamples, Message, Reply, Request, Vocabulary
from tests.interp.conftest import WORDS as WORDS_OF_WINDOWS
from tests.interp.conftest import latent, window
from tests.llm_server import NO_CHOICES, NOT_JSON, Body, Closed, Fault, LLMServer, RateLimit, Silence, Status, talkative

# -- readers -------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [*"[]{},:\"'-.\n\\<>", "yes", "No", "TRUE", "1", "0.5", "-3", "1e999", "NaN", "Text 2:", "null"]
)
SAID = st.text() | st.lists(WORDS | st.text(max_size=3), max_size=40).map("".join)
PROBABILITIES = st.floats(0, 1) | st.sampled_from([0.0, 1e-300])
LABELS = ("None", "Some", "All")


def said(text: str, *probabilities: float) -> Reply:
    return Reply(text, probabilities or None, 1, 1, 0.0)


HUGE = "1" * 400  # is read as an integer that no float can hold
LONG = f"[{'1' * 5000}]"  # more digits than Python reads
DEEP = "[" * 100_000


@given(SAID, st.integers(0, 5))
@example(LONG, 1)
@example(DEEP, 1)
def test_yes_and_no_are_read_from_any_text(text: str, n: int) -> None:
    assert isinstance(yes_or_no(said(text)), bool | Failure)
    verdicts = yes_or_no_list(said(text), n)
    assert len(verdicts) == n and all(isinstance(verdict, bool | Failure) for verdict in verdicts)


@given(SAID, st.integers(0, 5), st.floats(-10, 0), st.floats(0, 10))
@example(f"[{HUGE}]", 1, 0.0, 1.0)
@example("[NaN, Infinity]", 2, 0.0, 1.0)
@example(LONG, 1, 0.0, 1.0)
def test_numbers_are_read_from_any_text_and_lie_in_their_bounds(text: str, n: int, least: float, most: float) -> None:
    numbers = number_list(said(text), n, least, most)
    if not isinstance(numbers, Failure):
        assert len(numbers) == n and all(least <= number <= most for number in numbers)
    assert isinstance(json_list(text), list | None)


@given(SAID, st.tuples(PROBABILITIES, PROBABILITIES, PROBABILITIES))
def test_probabilities_become_shares_or_a_failure(text: str, probabilities: tuple[float, ...]) -> None:
    share = yes_or_no(said(text, *probabilities[:2]))
    assert isinstance(share, Failure) or 0 <= share <= 1
    shares = one_of(said(text, *probabilities), LABELS)
    assert isinstance(shares, Failure) or (isinstance(shares, tuple) and math.fsum(shares) == pytest.approx(1))
    label = one_of(said(text), LABELS)
    assert isinstance(label, Failure) or label in range(3)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def part(*known: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(known) | JSON


TOKENS = st.fixed_dictionaries(
    {"token": part("Yes", " no"), "logprob": part(-0.5, 1000.0, math.nan, -9999.0)},
    optional={"top_logprobs": part([{"token": "yes", "logprob": -0.1}])},
)
CHOICES = st.fixed_dictionaries(
    {"message": st.fixed_dictionaries({"content": part("Yes", "\ud800", [{"type": "text"}])}) | JSON},
    optional={"logprobs": st.fixed_dictionaries({"content": st.lists(TOKENS, max_size=2) | JSON}) | JSON},
)
USAGES = st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "completion_tokens": JSON}) | JSON
COMPLETIONS = st.fixed_dictionaries({"choices": st.lists(CHOICES, max_size=2) | JSON}, optional={"usage": USAGES})
BODIES = st.binary() | (COMPLETIONS | JSON).map(lambda body: json.dumps(body).encode())


@settings(max_examples=300)
@given(BODIES, st.sampled_from([(), ("yes", "no")]))
@example(DEEP.encode(), ())
@example(b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": Infinity}}', ())
def test_any_body_is_a_reply_that_can_be_stored_or_a_failure(body: bytes, labels: tuple[str, ...]) -> None:
    request = Request((Message("user", "?"),), 1, labels)
    answer = read_completion(body, request, 0.5)
    if isinstance(answer, Reply):
        assert answer.label_probabilities is None or len(answer.label_probabilities) == len(labels)
        assert all(0 <= p <= 1.01 for p in answer.label_probabilities or ())
    with Replies(":memory:") as replies:
        replies.add_many([("name", "m", request, answer)])
        assert replies.get("name") == (answer if isinstance(answer, Reply) else None)


# -- servers -------------------------------------------------------------------------------------------------

FAULTS: tuple[Fault, ...] = (
    RateLimit(0.05),
    Status(408),
    Status(409),
    Status(500),
    Status(503),
    Closed(),
    Silence(30),
    NOT_JSON,
    NO_CHOICES,
    Body(b""),
)
ASKED = [Request((Message("user", f"question {i}"),), 8, ("yes", "no") if i % 2 else ()) for i in range(200)]


def misbehaves(request: dict[str, Any], time: int) -> Fault | None:
    """On the first one or two tries of about 30% of the requests."""
    digest = hashlib.sha256(json.dumps(request["messages"]).encode()).digest()
    afflicted, n_times = digest[0] < 77, 1 + digest[1] % 2
    return FAULTS[(digest[2] + time) % len(FAULTS)] if afflicted and time <= n_times else None


def answered(server: LLMServer, config: JudgeConfig, folder: Path) -> Sequence[Reply | Failure]:
    folder.mkdir()
    with Replies(folder / "r") as replies:
        found = dict(RememberingClient(connect(server.address, None, config), replies).answer(ASKED))
    assert len(found) == len(ASKED)
    return [replace(found[i], seconds=0.0) if isinstance(found[i], Reply) else found[i] for i in range(len(ASKED))]


def test_faults_that_pass_change_no_answer_and_the_key_is_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    config = JudgeConfig(concurrency=16, timeout_seconds=1.0, attempts=4)
    with LLMServer() as good, LLMServer(befalls=misbehaves) as bad:
        expected = answered(good, config, tmp_path / "good")
        assert answered(bad, config, tmp_path / "bad") == expected
        n_again = sum(n > 1 for n in bad.asked.values())
    assert all(isinstance(answer, Reply) for answer in expected) and 40 <= n_again <= 80
    assert not any(b"secret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("fault", [Status(400), Status(401), Status(500), Body(b'{"seen": "Bearer sk-very-secret"}')])
def test_a_server_that_repeats_the_key_gets_it_stored_nowhere(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with LLMServer(befalls=lambda *_: fault) as server, Replies(tmp_path / "r") as replies:
        client = RememberingClient(connect(server.address, None, JudgeConfig(attempts=1)), replies)
        assert all(isinstance(answer, Failure) for _, answer in client.answer(ASKED[:4]))
        assert not any(b"secret" in file.read_bytes() for file in tmp_path.iterdir())


# -- explaining and scoring ----------------------------------------------------------------------------------

N_LATENTS = 200
VOCABULARY = Vocabulary(tuple(word.encode() for word in WORDS_OF_WINDOWS))

DETECTION_AND_FUZZING = ScoreConfig(scorers=("detection", "fuzzing"), controls=())

Tables = dict[str, list[tuple[object, ...]]]


def numbered(index: int) -> LatentExamples:
    """A latent whose windows are like no other latent's: the index in base 3 stands behind their first words."""
    digits = [(" house", " engine", " the")[index // 3**i % 3] for i in range(5)]

    def more(example: Example) -> Example:
        first = [WORDS_OF_WINDOWS[token] for token in example.window.tokens.tolist()]
        fires = {i: float(a) for i, a in enumerate(example.window.activations) if a > 0}
        filled = [*first, *[" the"] * (5 - len(first))]
        return replace(example, window=window(*filled, *digits, fires=fires))

    one = latent(index)
    return replace(one, explain=tuple(map(more, one.explain)), score=tuple(map(more, one.score)))


def scored(
    server: LLMServer, folder: Path, scoring: ScoreConfig = DETECTION_AND_FUZZING, n_latents: int = N_LATENTS
) -> Tables:
    """The tables of explanations and judgements."""
    folder.mkdir()
    examples = [numbered(index) for index in range(n_latents)]
    config = JudgeConfig(concurrency=16, timeout_seconds=1.0, attempts=4)
    with Replies(folder / "r") as replies, Results(folder / "results") as results:
        client = RememberingClient(connect(server.address, None, config), replies)
        results.add_examples(examples)
        results.add_explanations(explain(examples, client, VOCABULARY, ExplainConfig()))
        results.add_judgements(score(examples, results.explanations(), client, VOCABULARY, scoring))
        return {table: results.rows(table) for table in ("explanations", "judgements")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    with LLMServer() as good:
        return scored(good, tmp_path_factory.mktemp("good") / "run")


def test_two_hundred_latents_are_explained_and_scored_as_if_nothing_were_wrong(
    expected: Tables, tmp_path: Path
) -> None:
    with LLMServer(befalls=misbehaves) as bad:
        assert scored(bad, tmp_path / "bad") == expected
        assert sum(n > 1 for n in bad.asked.values()) > 200
    assert len(expected["explanations"]) == N_LATENTS
    assert len(expected["judgements"]) >= N_LATENTS * 8
    assert all(row[10] is None for row in expected["judgements"])


EVERYTHING = ScoreConfig(
    scorers=("detection", "fuzzing", "intruder", "simulation"),
    controls=("none", "other"),
    tell_base_rate=True,
    intruder_windows=3,
    simulation_windows=4,
)
SEVERAL_AT_ONCE = ScoreConfig(scorers=("detection", "fuzzing"), windows_per_prompt=3)


@pytest.mark.parametrize("scoring", [EVERYTHING, SEVERAL_AT_ONCE], ids=["one by one", "several at once"])
def test_every_scorer_and_control_is_as_if_nothing_were_wrong(scoring: ScoreConfig, tmp_path: Path) -> None:
    with LLMServer(answer=talkative) as good, LLMServer(answer=talkative, befalls=misbehaves) as bad:
        found = scored(good, tmp_path / "good", scoring, 40)
        assert scored(bad, tmp_path / "bad", scoring, 40) == found
        assert sum(n > 1 for n in bad.asked.values()) > 30
    assert {row[2] for row in found["judgements"]} == {*scoring.scorers, "misplaced"}
    assert {row[3] for row in found["judgements"]} >= {"plain", *scoring.controls}
    assert all(row[10] is None for row in found["judgements"])


def test_exactly_the_requests_that_fail_for_ever_are_failures(expected: Tables, tmp_path: Path) -> None:
    doomed: set[str] = set()

    def fails(request: dict[str, Any], time: int) -> Fault | None:
        said = json.dumps(request["messages"])
        if hashlib.sha256(said.encode()).digest()[0] > 2:
            return None
        doomed.add(said)
        return Status(500)

    with LLMServer(befalls=fails) as bad:
        found = scored(bad, tmp_path / "bad")
    unexplained = {row[1] for row in found["explanations"] if row[4] is None}
    failed = [row for row in found["judgements"] if row[10] is not None]
    assert 0 < len(unexplained) < 20
    assert len(unexplained) + len({row[9] for row in failed}) == len(doomed), "windows alike are asked about once"
    assert {row[10] for row in failed} == {"server"}
    kept = {row for row in expected["judgements"] if row[1] not in unexplained}
    assert {row for row in found["judgements"] if row[10] is None} == {
        row for row in kept if row[:7] not in {other[:7] for other in failed}
    }
