"""Latents of coders whose rows are set by hand, and seeds of one coder in another order."""

import pytest
import torch

from outcrop.coders.alike import matched, overlap
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture
from outcrop.errors import CoderError


def coder(*layers: list[list[float]]) -> SparseStack:
    made = SparseStack(Architecture(n_latents=len(layers[0]), k=1, layers=len(layers)), len(layers[0][0]))
    with torch.no_grad():
        for layer, rows in zip(made.layers, layers, strict=True):
            layer.decoder.copy_(torch.tensor(rows))
    return made


def test_overlap_is_the_mean_of_the_largest_cosines_with_earlier_layers() -> None:
    stack = coder([[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [-1.0, 0.0]])
    assert overlap(stack) == pytest.approx([(0.8 + 1) / 2, (1 + 0) / 2])
    assert overlap(coder([[1.0, 0.0]])) == []


def test_latents_are_matched_one_to_one_for_the_largest_sum() -> None:
    """Both of the first coder's latents are nearest to the same latent, which only one of them can have."""
    one = coder([[1.0, 0.0], [0.96, 0.28]])
    other = coder([[0.0, 1.0], [1.0, 0.0]])
    assert matched(one, other) == pytest.approx([(1 + 0.28) / 2])


def test_coders_that_differ_in_the_order_of_their_latents_alone_are_the_same() -> None:
    one = SparseStack(Architecture(n_latents=40, k=2, layers=2), 8)
    other = SparseStack(Architecture(n_latents=40, k=2, layers=2), 8)
    with torch.no_grad():
        order = torch.randperm(40)
        for layer, mirror in zip(one.layers, reversed(other.layers), strict=True):
            mirror.decoder.copy_(3 * layer.decoder[order])
    assert matched(one, other) == pytest.approx([1, 1], abs=1e-6)


def test_of_many_latents_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outcrop.coders.alike._PAIRED", 7)
    one = SparseStack(Architecture(n_latents=40, k=2), 8)
    assert matched(one, one) == pytest.approx([1], abs=1e-6)


def test_coders_of_other_widths_are_refused() -> None:
    with pytest.raises(CoderError, match="writes to 2 dimensions and the other to 3"):
        matched(coder([[1.0, 0.0]]), coder([[1.0, 0.0, 0.0]]))
