"""Optimizers: Muon for matrices, Adam for vectors (or for everything).

Muon (Jordan et al. 2024) replaces a matrix's momentum G = U S Vᵀ by about U Vᵀ, through five
Newton–Schulz steps X ← aX + bAX + cA²X with A = X Xᵀ. A sparse coder's matrices are very
tall, [M d] with M ≫ d, so the steps run on the d × d Gram matrix alone: each multiplies X by
a polynomial P of A, hence A ← P A P, Q ← P Q, and X is touched once, at the end: X ← X₀ Q.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from outcrop.config import TrainConfig

_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


def orthogonalised(matrix: Float[Tensor, "M d"]) -> Float[Tensor, "M d"]:
    """About U Vᵀ of the matrix's singular value decomposition; singular values end in about [0.7, 1.2].

    In float32: in bfloat16 the Gram matrix, whose spectrum is the squared one, loses the small directions.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    tall = tall / tall.norm().clamp_min(1e-7)
    gram = tall.T @ tall
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for step in range(_STEPS):
        polynomial = _A * identity + _B * gram + _C * (gram @ gram)
        product = product @ polynomial if step else polynomial
        if step + 1 < _STEPS:
            gram = polynomial @ gram @ polynomial
    tall = tall @ product
    return tall if matrix.shape[0] >= matrix.shape[1] else tall.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with an update of Adam's usual size:
    root mean square 0.2 per element (Liu et al. 2025, arXiv:2502.16982)."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state: dict[str, Any] = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonalised(weight.grad.lerp(momentum, group["momentum"]))
                weight.add_(direction, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)


def learning_rate(config: TrainConfig, n_latents: int) -> float:
    """The peak rate: as set, or 5e-3 for Muon, or Adam's 1e-3 · (4608 / M)^½."""
    if config.lr is not None:
        return config.lr
    match config.optimizer:
        case "muon":
            return 5e-3
        case "adam":
            return 1e-3 * (4608 / n_latents) ** 0.5


def optimizers(module: nn.Module, config: TrainConfig, n_latents: int) -> list[torch.optim.Optimizer]:
    """The optimizers that between them train every parameter."""
    lr = learning_rate(config, n_latents)
    parameters = list(module.parameters())
    if config.optimizer == "adam":
        return [torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), fused=True)]
    matrices = [parameter for parameter in parameters if parameter.ndim == 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    return [Muon(matrices, lr), torch.optim.Adam(vectors, lr=1e-3, fused=True)]
