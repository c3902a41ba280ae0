import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outcrop.coders.layer import SparseLayer
from outcrop.coders.placed import PlacedCoder
from outcrop.config import Architecture, CoderConfig, Normalise, Optimizer, TrainConfig
from outcrop.errors import CoderError, CorruptError, StaleError
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.train import checkpoint as checkpoints
from outcrop.train.loop import Trained, evaluate_coders, train_coders
from outcrop.train.normalise import directions, effective_rank, estimate, gamma
from outcrop.train.stream import Stream
from outcrop.types import ActivationBatch, CoderKey, Hookpoint
from tests.coders.test_stack import SELECTIONS

POINTS = [Hookpoint("model.layers.0"), Hookpoint("model.layers.1")]
CODER = CoderConfig(n_latents=64, k=4, layers=2)
SETTINGS = {"batch_tokens": 128, "block_tokens": 1_000, "ce_tokens": 200, "checkpoint_every_tokens": 256}


def keys(n: int = 1, seed: int = 0) -> list[CoderKey]:
    return [CoderKey("topk", point, point, seed) for point in POINTS[:n]]


def run(
    model: LanguageModel, corpora: dict[str, Corpus], optimizer: Optimizer = "adam", n: int = 1, **more: Any
) -> list[Trained]:
    config = TrainConfig(optimizer=optimizer, **SETTINGS, **more.pop("settings", {}))
    coders = more.pop("coders", dict.fromkeys(keys(n), CODER))
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


OPTIMIZERS: list[Optimizer] = ["muon", "adam", "signum"]


class Killed(Exception):
    pass


def killed(
    model: LanguageModel, corpora: dict[str, Corpus], folder: Path, measurements: int, *about: Any, **more: Any
) -> None:
    """A training that dies after so many measurements, of which there is one per step and coder."""
    left = measurements

    def killing(record: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    settings = {**more.pop("settings", {}), "evaluate_every_tokens": 128}
    with pytest.raises(Killed):
        run(model, corpora, *about, checkpoint_directory=folder, log=killing, settings=settings, **more)
    assert checkpoints.latest(folder, torch.device("cpu")) is not None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_gives_the_training_that_was_never_interrupted(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path, optimizer: Optimizer
) -> None:
    whole = run(model, corpora, optimizer, n=2)
    for steps in (3, 9, 20):
        killed(model, corpora, tmp_path, 2 * steps, optimizer, 2)
    resumed = run(model, corpora, optimizer, n=2, checkpoint_directory=tmp_path)
    assert all(same_weights(a, b) for a, b in zip(whole, resumed, strict=True))
    assert [t.reconstruction for t in whole] == [t.reconstruction for t in resumed]


RESUMED: dict[str, dict[str, Any]] = {
    "batchtopk": {"coders": {keys()[0]: replace(CODER, selection="batchtopk")}},
    "jumprelu": {"coders": {keys()[0]: replace(CODER, selection="jumprelu")}},
    "dense layers": {"coders": {keys()[0]: replace(CODER, encoder_widths=(24,), decoder_widths=(24,))}},
    "end to end": {"settings": {"loss": "ce"}},
    "k decay": {"settings": {"k_start": 16, "k_decay_share": 0.9}},
}


@pytest.mark.parametrize("more", RESUMED.values(), ids=RESUMED.keys())
def test_what_else_is_learned_goes_on_where_it_was(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path, more: dict[str, Any]
) -> None:
    (whole,) = run(model, corpora, **copy.deepcopy(more))
    killed(model, corpora, tmp_path, 7, **copy.deepcopy(more))
    (resumed,) = run(model, corpora, checkpoint_directory=tmp_path, **copy.deepcopy(more))
    assert same_weights(whole, resumed) and whole.reconstruction == resumed.reconstruction


def test_a_finetuned_stack_of_transcoders_goes_on_with_what_it_subtracts(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    key = CoderKey("topk", *POINTS, 0)
    coders = {key: Architecture(n_latents=64, k=4, layers=2, reads="resnet")}
    (first,) = run(model, corpora, coders=coders)
    given = copy.deepcopy(first.placed)
    given.coder.read_scale *= 0.8
    more: dict[str, Any] = {"coders": coders, "given": [given]}
    (whole,) = run(model, corpora, **more)
    killed(model, corpora, tmp_path, 7, **more)
    (resumed,) = run(model, corpora, checkpoint_directory=tmp_path, **more)
    assert same_weights(whole, resumed)
    assert whole.placed.coder.read_scale == resumed.placed.coder.read_scale != first.placed.coder.read_scale


def test_where_measures_go_may_change_on_the_way(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    killed(model, corpora, tmp_path, 7)
    run(model, corpora, checkpoint_directory=tmp_path, settings={"track": ("tensorboard",)})


def test_another_given_coder_is_no_training_to_go_on_with(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    first, second = (run(model, corpora, coders={keys(seed=seed)[0]: CODER})[0].placed for seed in range(2))
    killed(model, corpora, tmp_path, 7, given=[first])
    with pytest.raises(StaleError):
        run(model, corpora, checkpoint_directory=tmp_path, given=[replace(second, key=first.key)])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    model: LanguageModel, corpora: dict[str, Corpus]
) -> None:
    first, again = run(model, corpora)[0], run(model, corpora)[0]
    assert same_weights(first, again)
    assert not same_weights(first, run(model, corpora, seed=1)[0])


def test_a_half_written_checkpoint_is_not_taken_for_one(tmp_path: Path) -> None:
    checkpoints.save(checkpoints.Checkpoint(5, 1.0, "", {}), tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "state.pt").write_bytes(b"half")
    found = checkpoints.latest(tmp_path, torch.device("cpu"))
    assert found is not None and found.step == 5
    checkpoints.save(checkpoints.Checkpoint(9, 1.0, "", {}), tmp_path)
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
    with_sinks, without = estimate(batch_of(torch.cat([x, sinks])), 8.0), estimate(batch_of(x), 8.0)
    torch.testing.assert_close(with_sinks.source.mean, without.source.mean)
    assert with_sinks.source.scale == pytest.approx(without.source.scale)
    normalised, target = without(batch_of(x))
    assert target is normalised
    assert normalised.pow(2).mean() == pytest.approx(1, abs=1e-5)
    assert normalised.mean(dim=0).abs().max() < 1e-5
    assert estimate(batch_of(torch.cat([x, sinks])), None).source.scale > 100


@pytest.mark.parametrize(("normalise", "mean", "scale"), [("scale", 0.0, 2.0), ("none", 0.0, 1.0)])
def test_inputs_are_centred_and_scaled_only_where_that_is_wanted(
    normalise: Normalise, mean: float, scale: float
) -> None:
    x = torch.randn(5_000, 8, generator=torch.Generator().manual_seed(0)) * 2 + 3
    found = estimate(batch_of(x), None, normalise)
    assert found.source.mean.tolist() == [mean] * 8
    assert found.source.scale == pytest.approx(scale, rel=0.02)


def test_directions_are_the_fewest_that_hold_a_share_of_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 7 + torch.randn(2_000, 6, generator=generator) * torch.tensor([3.0, 2.0, 1.0, 0.1, 0.1, 0.1])
    basis = directions(x, 0.99)
    assert basis.shape == (6, 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3))
    assert basis[3:].abs().max() < 0.05
    assert directions(x, 1.0).shape == (6, 6)


def test_latents_start_where_they_are_told_to(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    """Before the first step, whose learning rate is nothing."""

    def started(**settings: Any) -> SparseLayer:
        trained = run(model, corpora, "adam", settings={"lr": 1e-30, **settings})
        return trained[0].placed.coder.layers[0]

    def rank(rows: Tensor) -> int:
        return int(torch.linalg.matrix_rank(rows, atol=1e-3))

    usual, within, apart = started(), started(start_within=0.5), started(start_transposed=False)
    assert rank(usual.decoder) == 32 > rank(within.decoder) == rank(within.encoder) > 0
    torch.testing.assert_close(within.decoder.norm(dim=1), torch.ones(64))
    torch.testing.assert_close(usual.encoder, usual.decoder)
    assert torch.nn.functional.cosine_similarity(apart.encoder, apart.decoder).abs().mean() < 0.3
    torch.testing.assert_close(apart.encoder.norm(dim=1), usual.encoder.norm(dim=1))


def test_the_log_tells_the_seconds_that_steps_took_also_after_a_restart(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    log: list[dict[str, Any]] = []
    settings = {"evaluate_every_tokens": 512}
    run(model, corpora, log=log.append, checkpoint_directory=tmp_path, settings=settings)
    seconds = [record["seconds"] for record in log]
    assert seconds == sorted(seconds) and seconds[0] > 0
    tokens = [record["tokens"] for record in log]
    assert tokens == sorted(tokens) and tokens[-1] >= 4_000
    saved = checkpoints.latest(tmp_path, torch.device("cpu"))
    assert saved is not None and saved.seconds == seconds[-1]


def batch_of(x: Tensor, y: Tensor | None = None) -> ActivationBatch:
    return ActivationBatch(x, x if y is None else y, torch.arange(len(x)))


def test_source_and_target_of_a_transcoder_are_scaled_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 8, generator=generator), 5 + 3 * torch.randn(500, 4, generator=generator)
    normalised_x, normalised_y = estimate(batch_of(x, y), 8.0)(batch_of(x, y))
    for normalised in (normalised_x, normalised_y):
        assert normalised.pow(2).mean() == pytest.approx(1, abs=1e-5)


def test_gamma_and_effective_rank_of_known_activations() -> None:
    """Three independent directions of equal variance in eight dimensions, and a mean of known length."""
    x = torch.zeros(6, 8)
    x[:, :3] = torch.cat([torch.eye(3), -torch.eye(3)])
    assert effective_rank(x) == pytest.approx(3, rel=1e-4)
    shifted = x + 2 * torch.nn.functional.one_hot(torch.tensor(7), 8)
    assert gamma(shifted) == pytest.approx(2 / (x.pow(2).mean().sqrt().item() * 8**0.5))
    assert effective_rank(shifted) == pytest.approx(3, rel=1e-4)


MLP_IN, MLP_OUT = Hookpoint("model.layers.0.mlp", "input"), Hookpoint("model.layers.0.mlp.down_proj")
GATE = Hookpoint("model.layers.0.mlp.gate_proj")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_architectures_are_trained_in_one_pass(
    model: LanguageModel, corpora: dict[str, Corpus], optimizer: Optimizer
) -> None:
    plain = {"n_latents": 48, "k": 4}
    settings: dict[CoderKey, Architecture] = {
        **{
            CoderKey(selection, POINTS[0], POINTS[0], 0): Architecture(selection=selection, layers=2, **plain)
            for selection in SELECTIONS
        },
        CoderKey("wide", MLP_IN, GATE, 0): Architecture(layers=2, reads="parallel", skip=True, **plain),
        CoderKey("dense", MLP_IN, MLP_OUT, 3): Architecture(encoder_widths=(16,), decoder_widths=(16,), **plain),
    }
    more = {"k_start": 12, "prefix_losses": True, "multi_topk": True, "auxk_weight": 1 / 32, "clip": 1.0}
    log: list[dict[str, Any]] = []
    trained = run(model, corpora, optimizer, coders=settings, settings=more, log=log.append)
    assert [one.placed.key for one in trained] == list(settings)
    for one in trained:
        measured = one.reconstruction
        assert 0 < measured.fvu < 1
        last = next(record for record in reversed(log) if record["coder"] == str(one.placed.key))
        assert measured.fvu == pytest.approx(last["fvu"], rel=1e-2)
        assert [sum(layer) for layer in last["rate_histogram"]] == [48] * len(measured.layers)
    assert trained[5].placed.coder.d_out == 64 and trained[5].placed.coder.skip is not None


def test_finetuning_goes_on_from_the_given_coder(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    (first,) = run(model, corpora, "adam")
    (none,) = run(model, corpora, "adam", given=[first.placed], settings={"lr": 1e-9})
    assert none.reconstruction.fvu == pytest.approx(first.reconstruction.fvu, rel=1e-3)
    (further,) = run(model, corpora, "adam", given=[first.placed])
    assert further.reconstruction.fvu < first.reconstruction.fvu


def test_a_finetuning_goes_on_from_its_checkpoint_whatever_architecture_the_settings_name(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    """The given coder's own counts."""
    (first,) = run(model, corpora, "adam")
    more: dict[str, Any] = {"given": [first.placed], "checkpoint_directory": tmp_path}
    more["coders"] = {keys()[0]: Architecture(n_latents=16, k=2)}
    (whole,) = run(model, corpora, "adam", **more)
    (resumed,) = run(model, corpora, "adam", **more)
    assert same_weights(whole, resumed)
    assert whole.placed.coder.architecture == first.placed.coder.architecture


@pytest.mark.parametrize("moved", [50.0, float("nan")])
def test_a_coder_at_the_wrong_place_is_not_finetuned(
    model: LanguageModel, corpora: dict[str, Corpus], moved: float
) -> None:
    (first,) = run(model, corpora)
    with torch.no_grad():
        first.placed.coder.decoder_bias += moved
    with pytest.raises(CoderError, match="worse than the mean"):
        run(model, corpora, given=[first.placed])
    with pytest.raises(CoderError, match="worse than the mean"):
        evaluate_coders(model, corpora["held_out"], [first.placed], TrainConfig(**SETTINGS))


def test_a_coder_whose_rows_have_any_norm_is_finetuned_from_where_it_was(
    model: LanguageModel, corpora: dict[str, Corpus]
) -> None:
    relu = {keys()[0]: Architecture(selection="jumprelu", n_latents=48, k=6)}
    (first,) = run(model, corpora, "adam", coders=relu)
    longer = copy.deepcopy(first.placed.coder)
    (layer,) = longer.layers
    factor = torch.linspace(0.5, 2, 48)
    with torch.no_grad():
        layer.decoder.mul_(factor[:, None])
        layer.encoder.div_(factor[:, None])
        layer.encoder_bias.div_(factor)
        layer.selection.rescale(1 / factor)
    given = replace(first.placed, coder=longer)
    (again,) = run(model, corpora, "adam", coders=relu, given=[given], settings={"lr": 1e-9})
    assert again.reconstruction.fvu == pytest.approx(first.reconstruction.fvu, rel=1e-3)


def test_activations_on_disk_give_the_weights_that_the_model_would(
    model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    settings = {"activations": str(tmp_path)}
    (fresh,) = run(model, corpora)
    (written,) = run(model, corpora, settings=settings, say=said.append)
    assert len(said) == 1 and "4,0" in said[0] and "0.00 GB" in said[0]
    blocks = sorted(tmp_path.glob("*/block-*.safetensors"))
    assert len(blocks) in (4, 5)  # one is the held-out text

    def refused(*_: Any) -> None:
        raise AssertionError("the language model was run where activations were kept")

    monkeypatch.setattr(Stream, "_computed", refused)
    monkeypatch.setattr("outcrop.train.loop.load_block", refused)
    (read,) = run(model, corpora, settings=settings)
    assert same_weights(fresh, written) and same_weights(fresh, read)
    monkeypatch.undo()
    run(model, corpora, coders={keys(2)[1]: CODER}, settings=settings)
    monkeypatch.setattr(Stream, "_computed", refused)
    monkeypatch.setattr("outcrop.train.loop.load_block", refused)
    run(model, corpora, n=2, settings=settings)
    blocks[0].write_bytes(blocks[0].read_bytes()[:100])
    with pytest.raises(CorruptError, match=r"block-00000\.safetensors is truncated"):
        run(model, corpora, settings=settings)
