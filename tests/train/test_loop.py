from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outcrop.coders.weights import PlacedCoder
from outcrop.config import CoderConfig, Optimizer, TrainConfig
from outcrop.errors import CoderError, CorruptError, StaleError
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.train import checkpoint as checkpoints
from outcrop.train.loop import Trained, evaluate_coders, train_coders
from outcrop.train.normalise import estimate
from outcrop.types import CoderKey, Hookpoint

POINTS = [Hookpoint("model.layers.0"), Hookpoint("model.layers.1")]
CODER = CoderConfig(n_latents=64, k=4, layers=2)
SETTINGS = {"batch_tokens": 128, "block_tokens": 1_000, "ce_tokens": 200, "checkpoint_every_tokens": 256}


def keys(n: int = 1, seed: int = 0) -> list[CoderKey]:
    return [CoderKey("topk", point, point, seed) for point in POINTS[:n]]


def run(
    model: LanguageModel, corpora: dict[str, Corpus], optimizer: Optimizer = "muon", n: int = 1, **more: Any
) -> list[Trained]:
    config = TrainConfig(optimizer=optimizer, **SETTINGS, **more.pop("settings", {}))
    coders = dict.fromkeys(keys(n), CODER)
    return train_coders(model, corpora["train"], corpora["held_out"], coders, config, **more)


def same_weights(a: Trained, b: Trained) -> bool:
    first, second = a.placed.coder.state_dict(), b.placed.coder.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_fvu_below_that_of_the_start(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    log: list[dict[str, Any]] = []
    (trained,) = run(model, corpora, log=log.append, settings={"evaluate_every_tokens": 128})
    assert log[0]["fvu"] > log[-1]["fvu"]
    measured = trained.reconstruction
    assert measured.fvu == pytest.approx(log[-1]["fvu"], rel=1e-3)  # the folded coder, on raw activations
    assert measured.fvu == measured.layers[-1].fvu < measured.layers[0].fvu < 1
    assert measured.l0 <= 8
    assert sum(layer.norm_share for layer in measured.layers) == pytest.approx(1)
    ce = measured.cross_entropy
    assert ce.clean < ce.coder and ce.kl > 0


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_resuming_gives_the_training_that_was_never_interrupted(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path, optimizer: Optimizer
) -> None:
    whole = run(model, corpora, optimizer, n=2)

    class Killed(Exception):
        pass

    for steps in (3, 9, 20):
        count = 0

        def killing(record: dict[str, Any], steps: int = steps) -> None:
            nonlocal count
            count += 1
            if count == 2 * steps:
                raise Killed

        with pytest.raises(Killed):
            run(
                model,
                corpora,
                optimizer,
                n=2,
                checkpoint_directory=tmp_path,
                log=killing,
                settings={"evaluate_every_tokens": 128},
            )
    assert checkpoints.latest(tmp_path, torch.device("cpu")) is not None
    resumed = run(model, corpora, optimizer, n=2, checkpoint_directory=tmp_path)
    assert all(same_weights(a, b) for a, b in zip(whole, resumed, strict=True))
    assert [t.reconstruction for t in whole] == [t.reconstruction for t in resumed]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    model: LanguageModel, corpora: dict[str, Corpus]
) -> None:
    first, again = run(model, corpora)[0], run(model, corpora)[0]
    assert same_weights(first, again)
    assert not same_weights(first, run(model, corpora, seed=1)[0])


def test_a_half_written_checkpoint_is_not_taken_for_one(tmp_path: Path) -> None:
    checkpoints.save(checkpoints.Checkpoint(5, "", {}), tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "state.pt").write_bytes(b"half")
    found = checkpoints.latest(tmp_path, torch.device("cpu"))
    assert found is not None and found.step == 5
    checkpoints.save(checkpoints.Checkpoint(9, "", {}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000009"]


def test_a_checkpoint_of_other_settings_or_that_is_damaged_is_refused(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    run(model, corpora, checkpoint_directory=tmp_path)
    with pytest.raises(StaleError, match="another text, model or settings"):
        run(model, corpora, checkpoint_directory=tmp_path, settings={"lr": 0.1})
    (state,) = tmp_path.glob("step-*/state.pt")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CorruptError, match=r"state\.pt cannot be read"):
        run(model, corpora, checkpoint_directory=tmp_path)


def test_a_coder_at_the_wrong_place_is_refused(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    (trained,) = run(model, corpora)
    placed = trained.placed
    with torch.no_grad():
        placed.coder.decoder_bias += 50
    with pytest.raises(CoderError, match="worse than the mean"):
        evaluate_coders(model, corpora["held_out"], [placed], TrainConfig(**SETTINGS))
    wide = Hookpoint("model.layers.0.mlp.gate_proj")
    moved = PlacedCoder(CoderKey("topk", wide, wide, 0), placed.coder)
    with pytest.raises(CoderError, match=r"32 wide.*gate_proj is 64 wide"):
        evaluate_coders(model, corpora["held_out"], [moved], TrainConfig(**SETTINGS))


def test_mean_and_scale_are_those_of_the_tokens_below_the_sink_norm() -> None:
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) * 2 + 3
    sinks = torch.full((3, 8), 1e4)
    with_sinks, without = estimate(torch.cat([x, sinks]), 8.0), estimate(x, 8.0)
    torch.testing.assert_close(with_sinks.mean, without.mean)
    assert with_sinks.scale == pytest.approx(without.scale)
    normalised = without(x)
    assert normalised.pow(2).mean() == pytest.approx(1, abs=1e-5)
    assert normalised.mean(dim=0).abs().max() < 1e-5
    assert np.isclose(without.gamma, float(x.mean(dim=0).norm()) / (without.scale * 8**0.5))
    assert estimate(torch.cat([x, sinks]), None).scale > 100
