"""Coders of ours with random weights, written in other libraries' layouts for those libraries to read.

python -m tests.coders.peers.ours
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from outcrop.coders.formats.saelens import write_saelens
from outcrop.coders.selection import BatchTopK, JumpReLU
from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import save_coder
from outcrop.config import Architecture

DATA = Path(__file__).parent / "data" / "ours"

Write = Callable[[SparseStack, Path], None]
to_sparsify: Write = partial(save_coder, max_norm=9.0)
to_saelens: Write = partial(write_saelens, metadata={"hook_name": "blocks.0.hook_resid_post"})

CODERS: dict[str, tuple[Write, dict[str, Any]]] = {
    "sparsify_residual": (to_sparsify, {}),
    "sparsify_parallel": (to_sparsify, {"reads": "parallel"}),
    "sparsify_resnet": (to_sparsify, {"reads": "resnet"}),
    "sparsify_groupmax": (to_sparsify, {"selection": "groupmax"}),
    "sparsify_transcoder": (to_sparsify, {"d_out": 8}),
    "sparsify_skip_transcoder": (to_sparsify, {"d_out": 8, "skip": True}),
    "saelens_topk": (to_saelens, {}),
    "saelens_topk_parallel": (to_saelens, {"reads": "parallel"}),
    "saelens_relu_resnet": (to_saelens, {"selection": "relu", "reads": "resnet"}),
    "saelens_batchtopk": (to_saelens, {"selection": "batchtopk"}),
    "saelens_jumprelu": (to_saelens, {"selection": "jumprelu"}),
    "saelens_transcoder": (to_saelens, {"selection": "relu", "d_out": 12}),
    "saelens_skip_transcoder": (to_saelens, {"selection": "relu", "d_out": 12, "skip": True}),
    "saelens_jumprelu_transcoder": (to_saelens, {"selection": "jumprelu", "d_out": 12}),
    "saelens_batchtopk_skip_transcoder": (to_saelens, {"selection": "batchtopk", "d_out": 12, "skip": True}),
}


@torch.no_grad()
def coder(d_out: int | None = None, **architecture: Any) -> SparseStack:
    generator = torch.Generator().manual_seed(0)
    made = SparseStack(Architecture(**{"n_latents": 24, "k": 4, **architecture}), 8, d_out, generator)
    for parameter in made.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    selection = made.layers[0].selection
    if isinstance(selection, BatchTopK):
        selection.threshold.fill_(0.6)
    if isinstance(selection, JumpReLU):
        selection.log_threshold.sub_(0.5)
    return made.eval().requires_grad_(False)


if __name__ == "__main__":
    for kind, (write, settings) in CODERS.items():
        (DATA / kind).mkdir(parents=True, exist_ok=True)
        write(coder(**settings), DATA / kind)
