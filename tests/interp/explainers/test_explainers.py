"""What each explainer shows, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from outcrop.config import ExplainConfig
from outcrop.errors import ConfigError
from outcrop.interp.explain import explain
from outcrop.interp.explainers.token_rule import token_rules
from outcrop.latents.triggers import find_triggers
from outcrop.types import Example, Explanation, Failure, LatentExamples, Reply, Request, TokenEvidence, Vocabulary
from tests.interp.conftest import WORDS, latent, window


@dataclass
class Scripted:
    """Explains with the next phrase, and finds that a window matches if it holds one of the words."""

    phrases: Sequence[str] = ("fruit",)
    yes: tuple[str, ...] = (" apple",)
    model: str = "m"
    texts: list[str] = field(default_factory=list)  # what was asked for a phrase
    judged: list[str] = field(default_factory=list)

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        for index, request in enumerate(requests):
            last = request.messages[-1].content
            if request.labels:
                self.judged.append(last)
                yes = any(word in last.splitlines()[0] for word in self.yes)
                yield index, Reply("", (0.9, 0.1) if yes else (0.1, 0.9), 1, 1, 0.0)
            else:
                self.texts.append(last)
                yield index, Reply(self.phrases[min(len(self.texts), len(self.phrases)) - 1], None, 1, 1, 0.0)


def run(examples: LatentExamples, client: Scripted, vocabulary: Vocabulary, **settings: object) -> list[Explanation]:
    config = ExplainConfig(**settings)  # type: ignore[arg-type]
    return list(explain([examples], client, vocabulary, config, promoted={examples.latent: [2, 3]}))


def test_default_shows_activating_windows_alone(vocabulary: Vocabulary) -> None:
    client = Scripted()
    (found,) = run(latent(), client, vocabulary, explainers=("default",))
    assert (found.explainer, found.source, found.text) == ("default", "all", "fruit")
    assert (found.n_windows, found.n_tokens) == (2, 4)
    assert "without marked words" not in client.texts[0]
    assert "engine" not in client.texts[0]


def test_output_shows_what_is_promoted(vocabulary: Vocabulary) -> None:
    client = Scripted()
    (found,) = run(latent(), client, vocabulary, explainers=("output",))
    assert found.n_windows == 3
    assert 'become likelier: "house, engine"' in client.texts[0]
    with pytest.raises(ConfigError, match="promoted"):
        list(explain([latent()], client, vocabulary, ExplainConfig(explainers=("output",))))
    (failed,) = explain([latent()], client, vocabulary, ExplainConfig(explainers=("output",)), promoted={})
    assert failed.failure is not None
    assert "residual stream" in failed.failure.detail


def test_each_band_is_explained_from_its_third_by_peak(vocabulary: Vocabulary) -> None:
    peaks = [5.0, 1.0, 3.0, 2.0, 6.0, 4.0]
    shown = [
        Example(i, i, "explain", window(" the", WORDS[i % 4], fires={1: p}), quantile=1) for i, p in enumerate(peaks)
    ]
    client = Scripted()
    found = run(replace(latent(), explain=tuple(shown)), client, vocabulary, explainers=("bands",))
    assert [one.source for one in found] == ["low", "middle", "high"]
    words = [text.splitlines()[0].removeprefix("These words were marked in texts: ") for text in client.texts]
    assert words == ['"engine, pear"', '"pear, house"', '"apple"']


def test_thoughts_are_kept_apart_from_the_explanation(vocabulary: Vocabulary) -> None:
    client = Scripted(("They are apples and pears.\nExplanation: fruit.",))
    (found,) = run(latent(), client, vocabulary, reasoning_tokens=50)
    assert (found.text, found.reasoning) == ("fruit", "They are apples and pears.")
    assert 'begins with "Explanation:"' in client.texts[0]
    (failed,) = run(latent(), Scripted(("They are apples and",)), vocabulary, reasoning_tokens=50)
    assert failed.text is None
    assert failed.failure is not None
    assert failed.failure.kind == "unreadable"
    assert failed.reasoning == "They are apples and"


def pool_latent() -> LatentExamples:
    """Two activating and two other windows to show, and as many in the pool: on apples, and not on houses."""
    fires = [Example(i, i, "explain", window(" apple", *[" the"] * i, fires={0: 1.0}), quantile=1) for i in range(4)]
    silent = [Example(4 + i, 4 + i, "explain", window(" house", *[" the"] * i), stratum="random") for i in range(4)]
    return replace(latent(), explain=(*fires, *silent))


def test_iterative_shows_the_mistakes_and_keeps_the_best_round(vocabulary: Vocabulary) -> None:
    class Improving(Scripted):
        """The judge is right on the second phrase only."""

        def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
            self.yes = (" apple",) if len(self.texts) == 2 else (" house",)
            yield from super().answer(requests)

    client = Improving(("houses", "apples", "engines"))
    (found,) = run(pool_latent(), client, vocabulary, explainers=("iterative",), rounds=3)
    assert found.text == "apples"
    assert len(client.texts) == 2, "without a mistake there is nothing to explain again"
    assert 'An earlier answer was "houses"' in client.texts[1]
    assert len(client.judged) == 8
    assert len(set(found.tried)) == 9 and found.request not in found.tried, "the other round, and four windows each"
    shown, pool = client.texts[0], "".join(client.judged)
    assert '" apple the"' not in shown
    assert "<< apple>> the the" in shown
    assert '" apple the"' in pool
    assert '" apple the the"' not in pool
    assert found.n_windows == 8, "four windows and four mistakes"


def test_iterative_never_sees_a_scored_window(vocabulary: Vocabulary) -> None:
    client = Scripted()
    scored = Example(9, 9, "score", window("<", " pear", fires={0: 1.0}), quantile=1)
    run(replace(pool_latent(), score=(scored,)), client, vocabulary, explainers=("iterative",))
    assert not any("‹" in text or "<" in text.replace("<<", "") for text in (*client.texts, *client.judged))


def evidence(fired: dict[str, int], occurrences: dict[str, int]) -> TokenEvidence:
    counts = [np.array([of.get(word, 0) for word in WORDS]) for of in (fired, occurrences)]
    with np.errstate(invalid="ignore"):
        found = find_triggers(csr_array(counts[0][None]), counts[1])
    windows = np.zeros((7, 3), np.int32)
    return TokenEvidence(latent().latent, *counts, windows, np.zeros(7, bool), found.token, bool(found.pure[0]))


@pytest.mark.parametrize(
    ("fired", "texts"),
    [
        ({" apple": 10}, {"token_rule": "the token “apple”", "single_token": "the token “apple”"}),
        ({" apple": 9, " pear": 5}, {"token_rule": "the tokens “apple”, “pear”", "single_token": None}),
        ({" the": 20}, {"token_rule": None, "single_token": None}),
    ],
)
def test_token_rules_name_the_tokens_that_set_it_off(
    fired: dict[str, int], texts: dict[str, str | None], vocabulary: Vocabulary
) -> None:
    client = Scripted()
    known = [evidence(fired, {" apple": 10, " pear": 10, " the": 1000})]
    config = ExplainConfig(explainers=("token_rule", "single_token"))
    found = list(explain([latent()], client, vocabulary, config, evidence=known))
    assert {one.explainer: one.text for one in found} == texts
    assert all((one.text is None) == (one.failure is not None) for one in found)
    assert all(one.n_tokens == 1020 and one.request == "" for one in found)
    assert client.texts == []


def test_a_token_that_goes_on_with_a_word_is_told_from_a_word() -> None:
    pieces = Vocabulary((b" the", b"les", b" ing", b"ing", b"The", b"(", "ни".encode()))
    windows = np.zeros((7, 3), np.int32)
    counts = np.ones(7, np.int64)
    known = TokenEvidence(latent().latent, counts, counts, windows, np.zeros(7, bool), np.arange(7), pure=False)
    (found,) = token_rules([known], pieces, ["token_rule"])
    assert found.text == "the tokens “the”, “…les”, “ing”, “The”, “(”, “…ни”"


def test_white_space_that_sets_a_latent_off_is_named(vocabulary: Vocabulary) -> None:
    known = evidence({"\n": 10}, {" apple": 10, "\n": 10, " the": 1000})
    found = {one.explainer: one.text for one in token_rules([known], vocabulary, ["token_rule", "single_token"])}
    assert found == {"token_rule": "the token “\\n”", "single_token": "the token “\\n”"}
    client = Scripted()
    lines = Example(0, 0, "explain", window(" the", "\n", fires={1: 1.0}), quantile=1)
    run(replace(latent(), explain=(lines,)), client, vocabulary, explainers=("default",))
    assert 'These words were marked in texts: "\\n"' in client.texts[0]
