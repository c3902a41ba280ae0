"""Optimizers, each with the law of its learning rate in the size of a layer's matrices, [M d].

    adam     peak 4e-3 · (4608/M · 576/d)^½, at most 8e-3
    muon     peak 5e-3 for matrices, whatever M: the size of an update does not depend on it; Adam at 1e-3 for vectors
    signum   peak 3e-3 · (4608/M · 576/d)^½, at most 8e-3; no decay: the average takes its place

An entry of a row of unit norm is about d^-½ and moves by about the rate: hence the law in d.

Muon (Jordan et al. 2024) replaces a matrix's momentum G = U S Vᵀ by about U Vᵀ, through five
Newton–Schulz steps X ← aX + bAX + cA²X with A = X Xᵀ. A sparse coder's matrices are very
tall, [M d] with M ≫ d, so the steps run on the d × d Gram matrix alone: each multiplies X by
a polynomial P of A, hence A ← P A P, Q ← P Q, and X is touched once, at the end: X ← X₀ Q.

Signum here is the sign of the gradient under schedule-free averaging (Defazio et al. 2024, arXiv:2405.15682):
gradients are taken at y, steps are made by z, and x, the average of all z, is what is evaluated and saved.

    z ← z − lr sign(∇f(y));   x ← (1 − c) x + c z;   y = (1 − β) z + β x,   c = lr² / Σ lr²

Rows of unit norm would not survive averaging, so those of x and z are brought back to it at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from outcrop import kernels
from outcrop.coders.stack import SparseStack
from outcrop.config import TrainConfig

_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
_BLOCKS = 4  # of the Gram matrix's columns: what lies below the diagonal blocks is not computed twice
_MEASURED_SIZE = 4608 * 576  # M d of the matrices on which the rates were measured
_HIGHEST_RATE = 8e-3  # none higher was seen to be best


def orthogonalised(matrix: Float[Tensor, "M d"]) -> Float[Tensor, "M d"]:
    """About U Vᵀ of the matrix's singular value decomposition; singular values end in about [0.7, 1.2]."""
    if len(matrix) < matrix.shape[1]:
        return orthogonalised(matrix.T).T
    return matrix @ orthogonaliser(matrix)


def orthogonaliser(tall: Float[Tensor, "M d"]) -> Float[Tensor, "d d"]:
    """The Q that makes a tall matrix X Q about orthogonal.

    In float32: in bfloat16 the Gram matrix, whose spectrum is the squared one, loses the small directions.
    """
    gram = _gram(tall)
    norm = gram.trace().sqrt().clamp_min(1e-7)
    gram = gram / norm**2
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity / norm
    for step in range(_STEPS):
        polynomial = _A * identity + _B * gram + _C * (gram @ gram)
        product = product @ polynomial
        if step + 1 < _STEPS:
            gram = polynomial @ gram @ polynomial
    return product


def _gram(tall: Float[Tensor, "M d"]) -> Float[Tensor, "d d"]:
    """XᵀX, block row by block row from the diagonal on."""
    d = tall.shape[1]
    gram = tall.new_empty(d, d)
    bounds = [d * block // _BLOCKS for block in range(_BLOCKS + 1)]
    for start, stop in pairwise(bounds):
        row = tall[:, start:stop].T @ tall[:, start:]
        gram[start:stop, start:] = row
        gram[start:, start:stop] = row.T
    return gram


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with an update of Adam's usual size:
    root mean square 0.2 per element (Liu et al. 2025, arXiv:2502.16982). Gradients are used up.

    With `balance_rows` each row (each latent) gets an update of that root mean square by itself.
    """

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95, *, balance_rows: bool = False
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "balance_rows": balance_rows})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state: dict[str, Any] = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                _move(weight, weight.grad.lerp_(momentum, group["momentum"]), group["lr"], group["balance_rows"])


def _move(weight: nn.Parameter, direction: Float[Tensor, "M d"], lr: float, balance_rows: bool) -> None:
    """One step of Muon along a matrix that is not orthogonal yet."""
    if balance_rows:
        rows = orthogonalised(direction)
        kernels.unit_rows_(rows)
        weight.add_(rows, alpha=-lr * 0.2 * weight.shape[1] ** 0.5)
        return
    tall, target = (direction, weight.data) if len(weight) >= weight.shape[1] else (direction.T, weight.data.T)
    target.addmm_(tall, orthogonaliser(tall), alpha=-lr * 0.2 * max(weight.shape) ** 0.5)


class Signum(torch.optim.Optimizer):
    """Signs of gradients, averaged schedule-free. Between steps the parameters hold y; within `averaged`, x.

    Groups with `unit_rows` keep rows of unit norm in z and x.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, beta: float = 0.95) -> None:
        super().__init__(groups, {"lr": lr, "beta": beta, "unit_rows": False, "lr_squares": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["lr_squares"] += group["lr"] ** 2
            share = group["lr"] ** 2 / group["lr_squares"] if group["lr_squares"] else 1.0
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self._state_of(weight)
                grad, z, x, y = (of.view(len(of), -1) for of in (weight.grad, state["z"], state["x"], weight.data))
                lr, beta, unit = (group[name] for name in ("lr", "beta", "unit_rows"))
                kernels.signum_(grad, z, x, y, lr=lr, share=share, beta=beta, unit=unit)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the parameters hold the averages."""
        moved = [weight for weight in self.state if "x" in self.state[weight]]
        held = [weight.data for weight in moved]
        for weight in moved:
            weight.data = self.state[weight]["x"]
        try:
            yield
        finally:
            for weight, data in zip(moved, held, strict=True):
                weight.data = data

    def _state_of(self, weight: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["z"], state["x"] = weight.detach().clone(), weight.detach().clone()
        return state


def learning_rate(config: TrainConfig, n_latents: int, width: int) -> float:
    """The peak rate of matrices [M d]: as set, or by the optimizer's law."""
    if config.lr is not None:
        return config.lr
    match config.optimizer:
        case "muon":
            return 5e-3
        case "adam":
            at_measured = 4e-3
        case "signum":
            at_measured = 3e-3
    return min(_HIGHEST_RATE, at_measured * (_MEASURED_SIZE / (n_latents * width)) ** 0.5)


def optimizers(coder: SparseStack, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers that between them train every parameter."""
    lr = learning_rate(config, coder.latents_per_layer, max(coder.d_in, coder.d_out))
    parameters = list(coder.parameters())
    match config.optimizer:
        case "adam":
            return [torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), fused=True)]
        case "muon":
            matrices = [parameter for parameter in parameters if parameter.ndim == 2]
            vectors = [parameter for parameter in parameters if parameter.ndim < 2]
            muon = Muon(matrices, lr, balance_rows=config.balance_rows)
            return [muon, torch.optim.Adam(vectors, lr=1e-3, fused=True)]
        case "signum":
            return [Signum(_with_unit_rows(coder), lr)]


def _with_unit_rows(coder: SparseStack) -> list[dict[str, Any]]:
    decoders = {id(layer.decoder) for layer in coder.layers}
    of = {kept: [p for p in coder.parameters() if (id(p) in decoders) == kept] for kept in (True, False)}
    return [{"params": parameters, "unit_rows": kept} for kept, parameters in of.items()]


@contextmanager
def averaged(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Within, the parameters are those to be evaluated and saved, where an optimizer averages them."""
    averaging = [optimizer for optimizer in optimizers if isinstance(optimizer, Signum)]
    if not averaging:
        yield
        return
    (signum,) = averaging
    with signum.averaged():
        yield
