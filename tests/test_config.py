from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcrop.config import (
    CoderConfig,
    ExamplesConfig,
    ExplainConfig,
    JudgeConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainConfig,
    dump,
    load,
)
from outcrop.errors import ConfigError


def config(**settings: object) -> RunConfig:
    return RunConfig(ModelConfig("m"), TextConfig("t.txt"), ("model.layers.0",), **settings)  # type: ignore[arg-type]


def test_a_config_survives_its_file(tmp_path: Path) -> None:
    judge = JudgeConfig(prices=("org/a=0.1/2",), max_cost=3.0, replies=Path("shared") / "replies.sqlite")
    written = config(coder=CoderConfig(n_latents=64, k=4, layers=3), judge=judge, seed=7)
    (tmp_path / "config.yaml").write_text(dump(written))
    assert load(tmp_path / "config.yaml") == written


@given(st.text(), st.text())
def test_any_name_survives_the_file(tmp_path_factory: pytest.TempPathFactory, name: str, path: str) -> None:
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    written = RunConfig(ModelConfig(name), TextConfig(path), ("a",))
    file.write_text(dump(written), encoding="utf-8", newline="")
    assert load(file) == written


def test_k_above_the_number_of_latents_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"coder\.k is 65.*64"):
        CoderConfig(n_latents=64, k=65)


def test_an_unknown_setting_in_a_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump(config()).replace("  k: ", "  kk: "))
    with pytest.raises(ConfigError, match=r"coder\.kk"):
        load(file)


def test_a_file_that_is_no_yaml_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TrainConfig(batch_tokens=10, block_tokens=5), "batch-tokens"),
        (lambda: TrainConfig(lr=-1.0), "lr"),
        (lambda: TrainConfig(dead_after_tokens=0), "dead-after-tokens"),
        (lambda: TrainConfig(sink_norm_multiple=0.5), "sink-norm-multiple"),
        (lambda: ExamplesConfig(n_quantiles=5, score_activating=12), "score-activating"),
        (lambda: TextConfig("t", context_tokens=1), "context-tokens"),
        (lambda: RunConfig(ModelConfig("m"), TextConfig("t"), ()), "hookpoint"),
        (lambda: config(more_coders=(CoderConfig(name="b", path="some/coder"),)), "given by coder.path alone"),
        (lambda: config(train=TrainConfig(loss="ce", multi_topk=True)), "no part for multi_topk"),
        (lambda: config(train=TrainConfig(loss="kl"), coder=CoderConfig(matryoshka=(64,))), "no part for matryoshka"),
        (
            lambda: config(
                examples=ExamplesConfig(neighbour_measure="encoder"), coder=CoderConfig(encoder_widths=(64,))
            ),
            "neighbour-measure is encoder",
        ),
        (
            lambda: config(
                examples=ExamplesConfig(explain_sampler="top"), explain=ExplainConfig(explainers=("bands",))
            ),
            "the explainer bands needs quantiles or random",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_named(make: object, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("tokens", "said", "dead_after"),
    [(2_000_000, None, 200_000), (3_000_000_000, None, 10_000_000), (5, None, 1), (2_000_000, 700, 700)],
)
def test_a_latent_is_dead_after_a_tenth_of_the_training_or_what_is_said(
    tokens: int, said: int | None, dead_after: int
) -> None:
    assert TrainConfig(tokens=tokens, dead_after_tokens=said).tokens_until_dead == dead_after
