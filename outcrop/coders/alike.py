"""How alike latents are, by the cosine of their decoder rows: within a stack, and between two coders.

overlap    the largest cosine of a latent with a latent of an earlier layer, mean over the latents of a layer
matched    the cosine of a latent with its partner, where the latents of two coders are paired one to one so that the
           sum of cosines is largest (Hungarian method), as Paulo and Belrose 2025 (arXiv:2501.16615) compare seeds
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from outcrop.coders.stack import SparseStack
from outcrop.errors import CoderError

_PAIRED = 5_000  # of the first coder's latents; more are drawn from
_ROWS = 1_024  # whose cosines are held at once


@torch.no_grad()
def overlap(coder: SparseStack) -> list[float]:
    """Of each layer but the first."""
    layers = _directions(coder).split(coder.latents_per_layer)
    found = []
    for i, layer in enumerate(layers[1:], start=1):
        earlier = torch.cat(layers[:i])
        largest = [(rows @ earlier.T).max(dim=1).values for rows in layer.split(_ROWS)]
        found.append(float(torch.cat(largest).mean()))
    return found


@torch.no_grad()
def matched(coder: SparseStack, other: SparseStack) -> list[float]:
    """Of each layer of the first coder, mean over its latents; they may be paired with latents of any layer.

    Of more than 5,000 latents so many are drawn and paired with all of the other's. CoderError where the coders write
    to spaces of different width."""
    own, others = _directions(coder), _directions(other)
    if own.shape[1] != others.shape[1]:
        raise CoderError(
            f"one coder writes to {own.shape[1]} dimensions and the other to {others.shape[1]}; latents are compared "
            "where both write to one hookpoint"
        )
    drawn = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[:_PAIRED].sort().values
    cosines = (own[drawn] @ others.T).numpy()
    row, column = linear_sum_assignment(cosines, maximize=True)
    found, layer = torch.from_numpy(cosines[row, column]), drawn[row] // coder.latents_per_layer
    return [float(found[layer == i].mean()) for i in range(coder.n_layers)]


def _directions(coder: SparseStack) -> Float[Tensor, "latents d_out"]:
    return F.normalize(coder.decoder_rows().float().cpu(), dim=1)
