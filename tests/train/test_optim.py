import pytest
import torch
from torch import nn

from outcrop.config import TrainConfig
from outcrop.train.optim import Muon, learning_rate, optimizers, orthogonalised
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
    module = nn.Linear(4, 8)
    muon, adam = optimizers(module, TrainConfig(optimizer="muon"), 8)
    assert muon.param_groups[0]["params"] == [module.weight]
    assert adam.param_groups[0]["params"] == [module.bias]
    (only,) = optimizers(module, TrainConfig(optimizer="adam"), 8)
    assert len(only.param_groups[0]["params"]) == 2


def test_learning_rates_follow_their_laws() -> None:
    assert learning_rate(TrainConfig(optimizer="muon"), 100) == learning_rate(TrainConfig(optimizer="muon"), 10_000)
    adam = TrainConfig(optimizer="adam")
    assert learning_rate(adam, 4 * 4608) == pytest.approx(learning_rate(adam, 4608) / 2)
    assert learning_rate(TrainConfig(lr=0.3), 100) == 0.3


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    factors = [lr_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == 0.0
