import pytest
import torch
from torch import nn

from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture, TrainConfig
from outcrop.train.optim import Muon, Signum, learning_rate, optimizers, orthogonalised
from outcrop.train.schedules import lr_factor


def spectrum(decay: float, m: int = 300, d: int = 40) -> torch.Tensor:
    """A tall matrix whose singular values fall from 1 to `decay`."""
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(m, d, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(d, d, generator=generator))
    return u * torch.logspace(0, torch.tensor(decay).log10().item(), d) @ v.T


def five_steps_on_the_matrix(matrix: torch.Tensor) -> torch.Tensor:
    """Newton–Schulz in float64 on the whole matrix: what the Gram matrix must give, too."""
    x = matrix.double().T / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T


@pytest.mark.parametrize(("decay", "tolerance"), [(0.1, 1e-4), (1e-2, 1e-3), (1e-3, 5e-2)])
def test_the_gram_iteration_equals_the_usual_one(decay: float, tolerance: float) -> None:
    matrix = spectrum(decay)
    expected = five_steps_on_the_matrix(matrix)
    for given, wanted in ((matrix, expected), (matrix.T.contiguous(), expected.T)):
        error = (orthogonalised(given).double() - wanted).norm() / wanted.norm()
        assert error < tolerance


def test_a_step_of_muon_equals_torchs_in_direction_and_size() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(64, 16)) for _ in range(2))
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    muon = Muon([ours], lr=0.01)
    for _ in range(3):
        ours.grad = torch.randn(64, 16)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    moved, expected = ours.detach() - 1, theirs.detach() - 1
    assert (moved - expected).norm() / expected.norm() < 0.05  # torch iterates in bfloat16


def test_muon_takes_the_matrices_and_adam_the_vectors() -> None:
    coder = SparseStack(Architecture(n_latents=8, k=2), 4)
    (layer,) = coder.layers
    muon, adam = optimizers(coder, TrainConfig(optimizer="muon"))
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(layer.encoder), id(layer.decoder)}
    assert {id(p) for p in adam.param_groups[0]["params"]} == {id(layer.encoder_bias), id(coder.decoder_bias)}
    (only,) = optimizers(coder, TrainConfig(optimizer="adam"))
    assert len(only.param_groups[0]["params"]) == 4


def test_balanced_muon_moves_every_row_equally_far() -> None:
    rows = nn.Parameter(torch.zeros(64, 16))
    rows.grad = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 0, 64)[:, None]
    Muon([rows], lr=0.01, balance_rows=True).step()
    torch.testing.assert_close(rows.detach().pow(2).mean(dim=1).sqrt(), torch.full((64,), 0.2 * 0.01))


def test_signum_follows_the_schedule_free_recursion_by_hand() -> None:
    """z −= lr·sign(g);  x = (1 − c) x + c z with c = 1, ½, ⅓;  y = 0.25 z + 0.75 x"""
    weight = nn.Parameter(torch.tensor([1.0, 0.0]))
    signum = Signum([{"params": [weight]}], lr=0.1, beta=0.75)
    for gradient in ([2.0, -3.0], [0.5, 0.0], [-1.0, 0.0]):
        weight.grad = torch.tensor(gradient)
        signum.step()
    z, x = [[0.9, 0.1], [0.8, 0.1], [0.9, 0.1]], [(0.9 + 0.8 + 0.9) / 3, 0.1]
    torch.testing.assert_close(weight.detach(), 0.25 * torch.tensor(z[-1]) + 0.75 * torch.tensor(x))
    with signum.averaged():
        torch.testing.assert_close(weight.detach(), torch.tensor(x))
    torch.testing.assert_close(weight.detach(), 0.25 * torch.tensor(z[-1]) + 0.75 * torch.tensor(x))


def test_learning_rates_follow_their_laws() -> None:
    muon, adam, signum = (TrainConfig(optimizer=name) for name in ("muon", "adam", "signum"))
    assert learning_rate(muon, 100, 8) == learning_rate(muon, 10_000, 4_096) == 5e-3
    assert learning_rate(adam, 4_608, 576) == 4e-3 and learning_rate(signum, 4_608, 576) == 3e-3
    for config in (adam, signum):
        rate = learning_rate(config, 4_608, 576)
        assert learning_rate(config, 4 * 4_608, 576) == learning_rate(config, 4_608, 4 * 576) == pytest.approx(rate / 2)
        assert learning_rate(config, 64, 16) == 8e-3
    assert learning_rate(TrainConfig(lr=0.3), 100, 8) == 0.3


def test_the_law_counts_the_latents_of_a_layer_and_the_wider_side() -> None:
    coder = SparseStack(Architecture(n_latents=4_608, k=2, layers=2, split=True, reads="parallel"), 16, 576)
    (adam,) = optimizers(coder, TrainConfig(optimizer="adam"))
    assert adam.param_groups[0]["lr"] == pytest.approx(4e-3 * 2**0.5)


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    factors = [lr_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == 0.0
