from typing import Any

import pytest
import torch
from torch import Tensor

from outcrop.coders.losses import coder_loss
from outcrop.coders.stack import SparseStack
from outcrop.config import TrainConfig
from tests.coders import obvious
from tests.coders.test_stack import stack, tokens

NONE_DEAD = torch.zeros(3, 10, dtype=torch.bool)


def loss_of(coder: SparseStack, x: Tensor, dead: Tensor = NONE_DEAD, **settings: Any) -> Tensor:
    config = TrainConfig(**settings)
    return coder_loss(coder, x, list(coder.run(x)), dead, coder.architecture.k_per_layer, config)[0]


def before(coder: SparseStack, codes: list[Tensor], layer: int) -> Tensor:
    """ŷ of the layers before one."""
    total = coder.decoder_bias
    for one, activations in zip(coder.layers[:layer], codes[:layer], strict=True):
        total = total + obvious.decode(one, activations)
    return total


def gradients(coder: SparseStack, loss: Tensor) -> list[Tensor]:
    parameters = list(coder.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def assert_equal(coder: SparseStack, ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs)
    for got, expected in zip(gradients(coder, ours), gradients(coder, theirs), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_plain_loss_is_the_mean_squared_error_of_the_whole_stack() -> None:
    coder, x = stack(dtype=torch.double), tokens(dtype=torch.double)
    assert_equal(coder, loss_of(coder, x), (x - obvious.forward(coder, x)[0]).pow(2).mean())


def test_prefix_losses_are_those_of_every_shorter_stack() -> None:
    coder, x = stack(dtype=torch.double), tokens(dtype=torch.double)
    _, codes = obvious.forward(coder, x)
    errors = [(x - before(coder, codes, depth)).pow(2).mean() for depth in (1, 2, 3)]
    assert_equal(coder, loss_of(coder, x, prefix_losses=True), torch.stack(errors).mean())


def test_every_matryoshka_prefix_of_every_layer_reconstructs_by_itself() -> None:
    coder, x = stack(dtype=torch.double, matryoshka=(2, 6)), tokens(dtype=torch.double)
    output, codes = obvious.forward(coder, x)
    errors = [(x - output).pow(2).mean()]
    for i, (layer, activations) in enumerate(zip(coder.layers, codes, strict=True)):
        for prefix in (2, 6):
            kept = activations * (torch.arange(10) < prefix)
            errors.append((x - before(coder, codes, i) - obvious.decode(layer, kept)).pow(2).mean())
    assert_equal(coder, loss_of(coder, x), torch.stack(errors).mean())


def test_multi_topk_adds_an_eighth_of_the_error_with_4k_latents() -> None:
    coder, x = stack(dtype=torch.double, k=2), tokens(dtype=torch.double)
    output, codes = obvious.forward(coder, x)
    total, wide = coder.decoder_bias, []
    for i, layer in enumerate(coder.layers):
        read = x - total
        more = obvious.select(layer, obvious.pre_activations(layer, read), "topk", 8)
        wide.append((x - before(coder, codes, i) - obvious.decode(layer, more)).pow(2).mean())
        total = total + obvious.decode(layer, codes[i])
    expected = (x - output).pow(2).mean() + torch.stack(wide).mean() / 8
    assert_equal(coder, loss_of(coder, x, multi_topk=True), expected)


def test_auxk_trains_the_dead_latents_of_every_layer_and_their_encoder_as_the_reference_does() -> None:
    coder, x = stack(dtype=torch.double), tokens(dtype=torch.double)
    dead = torch.zeros(3, 10, dtype=torch.bool)
    dead[0, [1, 4, 7, 9]] = dead[2, [0, 3]] = True
    output, codes = obvious.forward(coder, x)
    terms, total = [], coder.decoder_bias
    for i, layer in enumerate(coder.layers):
        read = (x - total).detach()
        total = total + obvious.decode(layer, codes[i])
        if not dead[i].any():
            continue
        error = (x - total).detach()
        pre = obvious.pre_activations(layer, read)[:, dead[i]]  # without a ReLU
        kept = torch.zeros_like(pre).scatter(1, pre.topk(min(3, pre.shape[1])).indices, 1.0)  # k_aux = d / 2
        share = min(1.0, pre.shape[1] / 3)
        terms.append(share * (error - (pre * kept) @ layer.decoder[dead[i]]).pow(2).mean() / error.pow(2).mean())
    expected = (x - output).pow(2).mean() + torch.stack(terms).sum() / 3 / 32
    assert_equal(coder, loss_of(coder, x, dead, auxk_weight=1 / 32), expected)
    aux_only = loss_of(coder, x, dead, auxk_weight=1 / 32) - loss_of(coder, x)
    of_encoders = torch.autograd.grad(aux_only, [layer.encoder for layer in coder.layers])
    for got, of_layer in zip(of_encoders, dead, strict=True):
        assert (got[of_layer].abs().sum(dim=1) > 0).all() and (got[~of_layer].abs() < 1e-12).all()


def test_the_spread_is_the_variance_over_latents_of_their_mean_preactivations() -> None:
    coder, x = stack(dtype=torch.double), tokens(dtype=torch.double)
    reads = [output.read.detach() for output in coder.run(x)]
    spreads = [
        (read @ layer.encoder.T + layer.encoder_bias).mean(dim=0).var()
        for read, layer in zip(reads, coder.layers, strict=True)
    ]
    assert_equal(coder, loss_of(coder, x, spread_weight=0.5), loss_of(coder, x) + 0.5 * torch.stack(spreads).mean())


@pytest.mark.parametrize(("selection", "norm"), [("relu", 1), ("jumprelu", 0)])
def test_the_penalty_is_the_mean_norm_of_a_token(selection: str, norm: int) -> None:
    coder, x = stack(dtype=torch.double, selection=selection), tokens(dtype=torch.double)
    output, codes = obvious.forward(coder, x)
    penalty = sum(activations.norm(p=norm, dim=1).mean() for activations in codes)
    expected = (x - output).pow(2).mean() + 0.01 * penalty
    torch.testing.assert_close(loss_of(coder, x, sparsity_weight=0.01), expected)


def test_jumprelu_learns_its_thresholds_by_the_straight_through_gradient() -> None:
    """Rajamanoharan et al. 2024, equations 10 and 12: for one latent, one token and pre within ε/2 of θ."""
    coder = stack(layers=1, dtype=torch.double, selection="jumprelu", n_latents=1, k=1)
    (layer,) = coder.layers
    threshold = layer.selection.threshold.item()
    with torch.no_grad():
        layer.encoder_bias.fill_(threshold + 0.05)
        layer.encoder.zero_()
    x = tokens(1, torch.double)
    (output,) = coder.run(x)
    by_output = output.output.sum() + output.codes.penalty  # type: ignore[union-attr]
    (got,) = torch.autograd.grad(by_output, [layer.selection.log_threshold])
    through = -(threshold / 0.2) * layer.decoder.sum().item() - 1 / 0.2
    assert got.item() == pytest.approx(through * threshold)


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
def test_jumprelu_moves_the_thresholds_of_latents_on_both_sides_of_them_and_of_no_others(dtype: torch.dtype) -> None:
    coder = stack(layers=1, dtype=dtype, selection="jumprelu", n_latents=300, k=3)
    (layer,) = coder.layers
    x = tokens(200, dtype)
    (output,) = coder.run(x)
    upstream = torch.randn(output.output.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    (got,) = torch.autograd.grad(
        (output.output * upstream).sum() + 7 * output.codes.penalty,  # type: ignore[union-attr]
        [layer.selection.log_threshold],
    )
    threshold = layer.selection.threshold.detach()
    pre = (output.read @ layer.encoder.T + layer.encoder_bias).detach()
    near = (pre > 0) & ((pre - threshold).abs() < 0.1)
    assert (near & (pre > threshold)).any() and (near & (pre < threshold)).any()
    of_jump = -(threshold / 0.2) * ((upstream @ layer.decoder.detach().T) * near).sum(dim=0)
    of_step = -(7 / len(x) / 0.2) * near.sum(dim=0)
    torch.testing.assert_close(got, (of_jump + of_step) * threshold, rtol=1e-4, atol=1e-4)
