"""sparsify's training step on its own coder, as its trainer takes it: without a language model, a logger or AuxK."""

from __future__ import annotations

from typing import Any

import torch
from schedulefree import ScheduleFreeWrapper
from serve import Step, batches, kept_bytes, serve
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.muon import Muon
from sparsify.sign_sgd import SignSGD


def open_case(case: dict[str, Any]) -> tuple[Step, Any]:
    following = batches(case["inputs"])
    coder = SparseCoder(following().shape[1], SparseCoderConfig(num_latents=case["m"], k=case["k"]))
    parameters, chosen = list(coder.parameters()), optimizers(coder, case["optimizer"])
    since_fired = torch.zeros(case["m"], dtype=torch.long)

    def step() -> None:
        x = following()
        did_fire = torch.zeros(case["m"], dtype=torch.bool)
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (x - x.mean(0)).pow(2).sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=case["autocast"]):
            out = coder(x, x, total_variance=total_variance)
        did_fire[out.latent_indices.flatten()] = True
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        since_fired.add_(len(x))
        since_fired[did_fire] = 0

    return step, lambda: kept_bytes(parameters, [getattr(optimizer, "base", optimizer) for optimizer in chosen])


def optimizers(coder: SparseCoder, name: str) -> list[Any]:
    """As sparsify's trainer makes them."""
    scale = (coder.num_latents / 2**14) ** 0.5
    match name:
        case "adam":
            return [torch.optim.Adam(coder.parameters(), lr=2e-4 / scale)]
        case "signum":
            wrapper = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=5e-3 / scale), momentum=0.95)
            wrapper.train()
            return [wrapper]
        case "muon":
            matrices = [parameter for parameter in coder.parameters() if parameter.ndim >= 2]
            vectors = [parameter for parameter in coder.parameters() if parameter.ndim < 2]
            return [Muon(matrices, lr=2e-3), torch.optim.Adam(vectors, lr=2e-3)]
    raise ValueError(f"unknown optimizer {name!r}")


if __name__ == "__main__":
    serve(open_case)
