"""All scorers on one latent, by a judge that says the same of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from outcrop.config import ModelConfig, ScoreConfig
from outcrop.errors import ConfigError
from outcrop.interp.score import score
from outcrop.interp.scorers.judging import without_other
from outcrop.model.embed import Embedder
from outcrop.model.likelihood import Reader
from outcrop.model.load import load_model
from outcrop.results import Results
from outcrop.types import Example, Explanation, Failure, LatentExamples, Reply, Request, Vocabulary
from tests.interp.conftest import latent, window
from tests.tiny import write_model

ALL = ("detection", "fuzzing", "intruder", "embedding", "surprisal", "simulation")
MODELS = {"embedder": "letters", "base_model": "tiny"}


@dataclass
class Says:
    """The last label where labels are wanted, else zeros; fails where the text holds a word."""

    failing: str = "nothing that occurs"
    model: str = "says"
    asked: list[Request] = field(default_factory=list)

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        self.asked += requests
        for index, request in enumerate(requests):
            if self.failing in request.messages[-1].content:
                yield index, Failure("timeout", "no answer")
            else:
                yield index, Reply(request.labels[-1] if request.labels else "[0, 0]", None, 1, 1, 0.0)


class Letters:
    def encode(self, texts: Sequence[str], **_: Any) -> ndarray:
        return np.array([[1.0, float(text.count("o"))] for text in texts])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    directory = write_model(tmp_path_factory.mktemp("lm") / "tiny")
    return Reader(load_model(ModelConfig(name=str(directory), dtype="float32")), 8)


EMBEDDER = Embedder(Letters(), "letters")


def examples(index: int) -> LatentExamples:
    """8 activating windows and 4 others, of two tokens."""
    activating = window(" apple", " the", fires={0: 1.0})
    score = (
        *(Example(i, i, "score", activating, quantile=1 + i // 4) for i in range(8)),
        *(Example(8 + i, 8 + i, "score", window(" house", " the"), stratum="random") for i in range(4)),
    )
    return replace(latent(index), score=score)


LATENTS = [examples(0), examples(1)]
EXPLANATIONS = [Explanation(one.latent, "default", "all", f"fruit {i}", "hash") for i, one in enumerate(LATENTS)]


def test_every_scorer_gives_one_judgement_per_arm_and_window(vocabulary: Vocabulary, reader: Reader) -> None:
    config = ScoreConfig(scorers=ALL, **MODELS)  # type: ignore[arg-type]
    client = Says()
    found = list(score(LATENTS, EXPLANATIONS, client, vocabulary, config, embedder=EMBEDDER, reader=reader))
    counts = Counter((j.scorer, j.arm) for j in found)
    arms = ("plain", "none", "other")
    assert counts == {
        **{(scorer, arm): 2 * 12 for scorer in ("detection", "fuzzing", "simulation") for arm in arms},
        **{("misplaced", arm): 2 * 8 for arm in arms},
        **{(scorer, arm): 2 * 12 for scorer in ("embedding", "surprisal") for arm in ("plain", "other")},
        ("intruder", "plain"): 2 * 2,
    }
    assert all(j.failure is None for j in found)
    assert [j.scorer for j in found[-2 * 48 :]] == ["embedding"] * 48 + ["surprisal"] * 48
    with Results() as results:
        results.add_judgements(found)
        assert len(results.rows("judgements")) == len(found)  # no key stands twice


def test_a_failure_is_that_of_its_window(vocabulary: Vocabulary) -> None:
    config = ScoreConfig(scorers=("detection", "simulation"), controls=())
    found = list(score(LATENTS, EXPLANATIONS, Says(failing="house"), vocabulary, config))
    assert len(found) == 2 * 2 * 12
    assert all((j.failure is not None) == (j.example >= 8) for j in found)


@pytest.mark.parametrize(("scorer", "name"), [("embedding", "embedder"), ("surprisal", "reader")])
def test_a_scorer_whose_model_is_not_given_is_told_before_anything_is_asked(
    vocabulary: Vocabulary, scorer: str, name: str
) -> None:
    config = ScoreConfig(scorers=("detection", scorer), **MODELS)  # type: ignore[arg-type]
    client = Says()
    with pytest.raises(ConfigError, match=f"the scorer {scorer} is wanted, but no {name} is given"):
        score(LATENTS, EXPLANATIONS, client, vocabulary, config)
    assert client.asked == []


def test_explanations_beside_which_no_other_stands_are_counted() -> None:
    alone = replace(EXPLANATIONS[0], explainer="bands")
    alike = [replace(one, explainer="output", text="fruit") for one in EXPLANATIONS]
    failed = replace(EXPLANATIONS[0], explainer="iterative", text=None, failure=Failure("empty", ""))
    stranger = replace(EXPLANATIONS[0], latent=examples(2).latent)
    assert without_other(LATENTS, EXPLANATIONS) == 0
    assert without_other(LATENTS, [*EXPLANATIONS, alone, *alike, failed, stranger]) == 3
