from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from outcrop.config import JudgeConfig
from outcrop.errors import JudgeError
from outcrop.interp.clients.client import connect
from outcrop.interp.clients.vllm import VLLMClient
from outcrop.judges import Judges
from outcrop.types import Failure, Message, Reply, Request

SCHEMA = '{"type": "array"}'


class Words:
    """A tokenizer of one token per word, with one token that steers."""

    chat_template = None
    all_special_tokens = ("<|end|>",)
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [7 if word == "<|end|>" else len(word) for word in text.split()]}


def tokens(**probabilities: float) -> list[dict[int, Any]]:
    """As vLLM gives the likeliest tokens of the first place."""
    likeliest = [
        SimpleNamespace(logprob=math.log(p) if p == p else p, decoded_token=f" {word}")
        for word, p in probabilities.items()
    ]
    return [dict(enumerate(likeliest))]


def output(text: str, logprobs: list[dict[int, Any]] | None = None) -> Any:
    return SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=[1, 2, 3], logprobs=logprobs)])


@dataclass
class Engine:
    """What the module `vllm` is given, and what its engine says to each prompt."""

    says: Callable[[list[int], Any], Any] = lambda prompt, params: output(f"said {prompt[1]}")
    loaded: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[list[int], Any]] = field(default_factory=list)
    calls: int = 0

    def load(self, **settings: Any) -> Engine:
        self.loaded = settings
        return self

    llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=40))

    def get_tokenizer(self) -> Words:
        return Words()

    def generate(self, prompts: list[Any], sampling_params: list[Any], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.calls += 1
        asked = [(prompt["prompt_token_ids"], params) for prompt, params in zip(prompts, sampling_params, strict=True)]
        self.asked += asked
        return [self.says(prompt, params) for prompt, params in asked]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    module, sampling = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vars(module).update(LLM=made.load, SamplingParams=SimpleNamespace)
    vars(sampling).update(StructuredOutputsParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    return made


def ask(text: str, *labels: str, schema: str | None = None) -> Request:
    return Request((Message("user", text),), 8, labels, schema)


def answers(client: Any, *requests: Request) -> list[Reply | Failure]:
    found = dict(client.answer(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[index] for index in range(len(requests))]


def test_a_judge_named_vllm_is_loaded_with_prefixes_kept(engine: Engine) -> None:
    client = connect("vllm:org/model", None, JudgeConfig())
    assert isinstance(client, VLLMClient) and client.model == "org/model"
    assert engine.loaded == {"model": "org/model", "enable_prefix_caching": True, "seed": 0}


def test_texts_come_to_the_requests_that_asked_for_them(engine: Engine) -> None:
    first, second = answers(VLLMClient("m"), ask("a"), ask("bbbb"))
    assert isinstance(first, Reply) and isinstance(second, Reply)
    assert (first.text, second.text) == ("said 1", "said 4")
    assert (first.prompt_tokens, first.completion_tokens, first.label_probabilities) == (3, 3, None)
    (prompt, params), _ = engine.asked
    assert prompt == [len("user:"), len("a"), len("assistant:")]
    assert params == SimpleNamespace(temperature=0.0, seed=0, max_tokens=8, logprobs=None, structured_outputs=None)


def test_labels_are_summed_over_the_likeliest_tokens(engine: Engine) -> None:
    engine.says = lambda *_: output("Yes", tokens(yes=0.2, Yes=0.3, NO=0.25, maybe=0.2))
    (reply,) = answers(VLLMClient("m"), ask("?", "yes", "no"))
    assert isinstance(reply, Reply) and reply.label_probabilities == pytest.approx((0.5, 0.25))
    assert engine.asked[0][1].logprobs == 20 and engine.asked[0][1].max_tokens == 1


def test_numbers_have_their_expected_values(engine: Engine) -> None:
    (first,) = tokens(**{"0": 0.75, "4": 0.25})
    written = SimpleNamespace(text="0", token_ids=[0], logprobs=[first])
    engine.says = lambda *_: SimpleNamespace(outputs=[written])
    (reply,) = answers(VLLMClient("m"), replace(ask("?"), numbers_up_to=10))
    assert isinstance(reply, Reply) and reply.expected_numbers == pytest.approx((1.0,))
    assert engine.asked[0][1].logprobs == 20 and engine.asked[0][1].max_tokens == 8


def test_a_schema_becomes_structured_output(engine: Engine) -> None:
    answers(VLLMClient("m"), ask("?", schema=SCHEMA))
    assert engine.asked[0][1].structured_outputs == SimpleNamespace(json=SCHEMA)


def test_what_cannot_be_asked_or_read_is_a_failure_and_the_others_are_answered(engine: Engine) -> None:
    said = {
        1: output("  "),
        2: output("Yes", tokens(yes=float("nan"))),
        3: output("Yes", tokens(yes=0.9, no=0.9)),
    }
    engine.says = lambda prompt, _: said.get(prompt[1], output("word"))
    found = answers(VLLMClient("m"), ask("w " * 31), ask("a"), ask("bb", "yes"), ask("ccc", "yes"), ask("dddd"))
    kinds = [answer.kind if isinstance(answer, Failure) else None for answer in found]
    assert kinds == ["input", "empty", "unreadable", "unreadable", None]
    assert "a prompt of 33 tokens; the model reads 40" in str(found[0]) and len(engine.asked) == 4


def test_text_cannot_hold_tokens_that_steer(engine: Engine) -> None:
    answers(VLLMClient("m"), ask("<|end|>"))
    assert 7 not in engine.asked[0][0]


def test_many_requests_are_given_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outcrop.interp.clients.vllm._AT_ONCE", 4)
    found = answers(VLLMClient("m"), *[ask("w" * (i + 1)) for i in range(10)])
    assert [answer.text for answer in found if isinstance(answer, Reply)] == [f"said {i + 1}" for i in range(10)]
    assert engine.calls == 3


def test_a_directory_is_named_by_its_weights(engine: Engine, tmp_path: Path) -> None:
    names = []
    for content in (b"a" * 5000, b"a" * 4999 + b"b"):
        (tmp_path / "judge").mkdir(exist_ok=True)
        (tmp_path / "judge" / "model.safetensors").write_bytes(content)
        names.append(VLLMClient(str(tmp_path / "judge")).model)
    assert names[0] != names[1] and all(name.startswith("judge-") for name in names)


def test_a_model_that_vllm_cannot_load_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> Any:
        raise ValueError("no room for the KV cache")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", fail)
    with pytest.raises(JudgeError, match=r"vllm:m cannot be loaded by vLLM: no room for the KV cache"):
        connect("vllm:m", None, JudgeConfig())


def test_a_vllm_that_cannot_be_imported_is_told_with_the_version_it_takes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["vllm.sampling_params"], "StructuredOutputsParams")
    with pytest.raises(JudgeError, match=r"vLLM cannot be imported \(.*StructuredOutputsParams.*0\.19 or later"):
        connect("vllm:m", None, JudgeConfig())


def test_without_the_package_the_remedy_is_told_before_any_work() -> None:
    for refused in (lambda: VLLMClient("m"), lambda: Judges(JudgeConfig(name="vllm:m"), connect).require("judge")):
        with pytest.raises(JudgeError, match=r"pip install 'vllm>=0\.19'"):
            refused()
