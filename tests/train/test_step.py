"""One coder on planted activations: sparse sums of known directions."""

from typing import Any

import pytest
import torch
from torch import Tensor

from outcrop.config import Architecture, Optimizer, TrainConfig
from outcrop.train.normalise import estimate
from outcrop.train.schedules import k_at, lr_factor
from outcrop.train.step import CoderState, new_state, train_step
from outcrop.types import ActivationBatch, CoderKey, Hookpoint

POINT = Hookpoint("model.layers.0")
KEY = CoderKey("topk", POINT, POINT, 0)
OPTIMIZERS: list[Optimizer] = ["muon", "adam", "signum"]


class Planted:
    """Sparse non-negative sums of 40 directions in 16 dimensions."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._directions = torch.randn(40, 16, generator=self._generator)

    def batch(self, n: int = 256) -> ActivationBatch:
        fires = torch.rand(n, 40, generator=self._generator) < 0.05
        x = (fires * torch.rand(n, 40, generator=self._generator)) @ self._directions + 2
        return ActivationBatch(x, x, torch.arange(n))


def begun(planted: Planted, config: TrainConfig, **architecture: Any) -> CoderState:
    settings = Architecture(**{"n_latents": 64, "k": 3, "layers": 2, **architecture})
    return new_state(KEY, settings, config, estimate(planted.batch(2_000), None))


def trained(state: CoderState, planted: Planted, config: TrainConfig, n_steps: int) -> list[float]:
    return [train_step(state, planted.batch(), step, n_steps, config) for step in range(n_steps)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_half_of_the_latents_killed_come_back_by_auxk_and_not_without(optimizer: Optimizer) -> None:
    alive = {}
    for weight in (0.0, 1.0):
        planted = Planted()
        config = TrainConfig(optimizer=optimizer, dead_after_tokens=512, auxk_weight=weight, lr=2e-2)
        state = begun(planted, config)
        with torch.no_grad():
            for layer in state.coder.layers:
                layer.encoder_bias[:32] = -8.0
        trained(state, planted, config, 300)
        with state.evaluated() as coder, torch.no_grad():
            outputs = list(coder.run(state.normaliser(planted.batch(4_000))[0]))
        alive[weight] = [int((output.codes.count(64)[:32] > 0).sum()) for output in outputs]
    assert max(alive[0.0]) <= 1  # one may stray back
    assert min(alive[1.0]) >= 16


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decoder_rows_have_unit_norm_in_training_and_when_evaluated(optimizer: Optimizer) -> None:
    planted, config = Planted(), TrainConfig(optimizer=optimizer)
    state = begun(planted, config)
    trained(state, planted, config, 30)
    torch.testing.assert_close(state.coder.decoder_rows().norm(dim=1), torch.ones(128))
    torch.testing.assert_close(state.placed().coder.decoder_rows().norm(dim=1), torch.ones(128))


def test_what_signum_saves_is_the_average_and_training_goes_on_from_where_it_was() -> None:
    planted, config = Planted(), TrainConfig(optimizer="signum")
    state = begun(planted, config)
    trained(state, planted, config, 30)
    before = {name: tensor.clone() for name, tensor in state.coder.state_dict().items()}
    with state.evaluated() as coder:
        assert not torch.equal(coder.layers[0].encoder, before["layers.0.encoder"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.coder.state_dict().items())


@pytest.mark.parametrize("size", [256, 100, 37])
def test_micro_batches_give_the_gradients_of_the_whole_batch(size: int) -> None:
    weights: dict[int | None, Tensor] = {}
    for micro in (None, size):
        planted = Planted()
        config = TrainConfig(optimizer="adam", micro_batch_tokens=micro, clip=0.5)
        state = begun(planted, config)
        trained(state, planted, config, 3)
        weights[micro] = state.coder.decoder_rows()
    torch.testing.assert_close(weights[size], weights[None], atol=1e-4, rtol=0)


def test_clipping_bounds_the_gradient_that_the_optimizer_sees() -> None:
    planted = Planted()
    seen: list[float] = []
    config = TrainConfig(optimizer="adam", clip=1e-3)
    state = begun(planted, config)
    state.optimizers[0].register_step_pre_hook(
        lambda *_: seen.append(sum(float(p.grad.pow(2).sum()) for p in state.coder.parameters() if p.grad is not None))
    )
    trained(state, planted, config, 2)
    assert all(square**0.5 == pytest.approx(1e-3, rel=1e-3) for square in seen) and len(seen) == 2


@pytest.mark.parametrize("selection", ["topk", "batchtopk", "groupmax"])
def test_k_falls_linearly_to_that_of_the_coder(selection: str) -> None:
    planted = Planted()
    config = TrainConfig(optimizer="adam", k_start=13, k_decay_share=0.5)
    state = begun(planted, config, selection=selection, layers=1)
    asked: list[int] = []
    state.coder.layers[0].selection.register_forward_pre_hook(lambda _, args: asked.append(args[3]))
    trained(state, planted, config, 20)
    assert asked == [*range(13, 3, -1), *[3] * 10]


def test_schedules() -> None:
    assert [k_at(step, 8, 2, 10, 0.5) for step in range(8)] == [10, 8, 6, 4, 2, 2, 2, 2]
    assert k_at(0, 8, 2, None, 0.5) == 2
    assert [lr_factor(step, 6, 1 / 3) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [lr_factor(step, 4, 0.5, decays=False) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_the_dead_are_those_that_have_not_fired_for_so_long_and_are_unknown_before() -> None:
    planted, config = Planted(), TrainConfig(optimizer="adam", lr=1e-9)
    state = begun(planted, config)
    with torch.no_grad():
        state.coder.layers[1].encoder_bias[:16] = -100.0
    trained(state, planted, config, 3)
    assert state.dead_share(769) == [None, None]
    assert state.dead_share(768)[1] >= 0.25
    assert state.since_fired[1, :16].tolist() == [768] * 16
