from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from outcrop import kernels
from outcrop.kernels import Codes, encode, sparse_decode

SELECTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Codes]] = {
    "topk": partial(kernels.topk, k=3),
    "signed topk": partial(kernels.topk, k=3, signed=True),
    "batchtopk": partial(kernels.batchtopk, k=3),
    "groupmax": partial(kernels.groupmax, k=3),
    "above": partial(kernels.above, threshold=0.5),
}
by_selection = pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS.keys())


def topk_encode(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Codes:
    return encode(x, weight, bias, partial(kernels.topk, k=k))


def dense(x: Tensor, weight: Tensor, bias: Tensor, decoder: Tensor, codes: Codes) -> Tensor:
    """The slow, obvious computation with the selection given: everything dense, autograd's own gradients."""
    mask = torch.zeros(len(x), len(weight), dtype=x.dtype).scatter_add(1, codes[1], (codes[0] != 0).to(x.dtype))
    return ((x @ weight.T + bias) * mask) @ decoder


def tensors(n: int = 7, d: int = 5, m: int = 11, dtype: torch.dtype = torch.double) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, d), (m, d), (m,), (m, d)]
    return [torch.randn(s, dtype=dtype, generator=generator, requires_grad=True) for s in shapes]


@by_selection
@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
def test_output_and_gradients_equal_the_dense_computation(
    select: Callable[[Tensor, Tensor, Tensor], Codes], dtype: torch.dtype
) -> None:
    x, weight, bias, decoder = tensors(dtype=dtype)
    codes = encode(x, weight, bias, select)
    sparse, obvious = sparse_decode(*codes, decoder), dense(x, weight, bias, decoder, codes)
    torch.testing.assert_close(sparse, obvious)
    upstream = torch.randn_like(sparse)
    for ours, theirs in zip(
        torch.autograd.grad(sparse, (x, weight, bias, decoder), upstream),
        torch.autograd.grad(obvious, (x, weight, bias, decoder), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@by_selection
def test_gradcheck(select: Callable[[Tensor, Tensor, Tensor], Codes]) -> None:
    x, weight, bias, decoder = tensors()
    assert torch.autograd.gradcheck(
        lambda x, w, b, d: sparse_decode(*encode(x, w, b, select), d), (x, weight, bias, decoder)
    )


def test_gradcheck_with_ties_and_selected_zeros() -> None:
    # Latents 0 and 1 are tied, and both are selected; the others are negative, so that two zeros are selected too.
    x = torch.ones(3, 2, dtype=torch.double)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-2.0, 0.0]], dtype=torch.double, requires_grad=True)
    bias, decoder = torch.zeros(4, dtype=torch.double), torch.randn(4, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, d: sparse_decode(*topk_encode(x, w, bias, 4), d), (weight, decoder))


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
def test_a_selected_zero_gets_no_gradient(dtype: torch.dtype) -> None:
    x = torch.ones(1, 2, dtype=dtype)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], dtype=dtype, requires_grad=True)
    values, indices = topk_encode(x, weight, torch.zeros(3, dtype=dtype), 2)
    assert sorted(values[0].tolist()) == [0.0, 1.0]  # only one pre-activation is positive; a zero is selected beside it
    sparse_decode(values, indices, torch.ones(3, 2, dtype=dtype)).sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].abs().sum() > 0
    assert weight.grad[1:].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
def test_ties_select_k_and_their_gradients_agree_with_the_selection(dtype: torch.dtype) -> None:
    x = torch.ones(2, 1, dtype=dtype)
    weight = torch.ones(4, 1, dtype=dtype, requires_grad=True)
    values, indices = topk_encode(x, weight, torch.zeros(4, dtype=dtype), 2)
    assert values.tolist() == [[1, 1], [1, 1]]
    values.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[:, 0], torch.bincount(indices.flatten(), minlength=4).to(dtype))


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
def test_latents_that_nobody_selected_have_a_zero_gradient(dtype: torch.dtype) -> None:
    x, weight, bias, decoder = tensors(n=1, dtype=dtype)
    values, indices = topk_encode(x, weight, bias, 2)
    sparse_decode(values, indices, decoder).sum().backward()
    assert decoder.grad is not None
    unused = [i for i in range(11) if i not in indices.flatten().tolist()]
    assert decoder.grad[unused].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_all_tokens_are_moved_by_gets_its_gradient_through_the_bias(dtype: torch.dtype) -> None:
    x, weight, bias, centre = (torch.randn(*shape, dtype=dtype) for shape in ((20, 6), (15, 6), (15,), (6,)))
    seen = torch.randn(20, 4, dtype=dtype)
    found = []
    for apart in (True, False):
        leaves = [one.clone().requires_grad_() for one in (weight, bias, centre)]
        w, b, c = leaves
        moved, b = (x + c.detach(), kernels.centred_bias(b, c, w)) if apart else (x + c, b)
        values, _ = topk_encode(moved, w, b, 4)
        found.append(torch.autograd.grad((values * seen).sum(), leaves))
    for apart_grad, grad in zip(*found, strict=True):
        torch.testing.assert_close(apart_grad, grad)


def test_an_input_that_needs_no_gradient_costs_none() -> None:
    x, weight, bias, decoder = tensors()
    out = sparse_decode(*topk_encode(x.detach(), weight.detach(), bias, 2), decoder.detach())
    out.sum().backward()
    assert bias.grad is not None and weight.grad is None and decoder.grad is None


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_each_gradient_of_decoding_is_the_same_with_and_without_the_other(
    needed: tuple[bool, bool], dtype: torch.dtype
) -> None:
    *_, decoder = tensors(dtype=dtype)
    indices = torch.tensor([[0, 3], [3, 10], [10, 0]])
    values = torch.tensor([[1.0, 2.0], [0.0, 4.0], [5.0, 0.0]], dtype=dtype)
    codes = [values.clone().requires_grad_(on) for on in (True, needed[0])]
    decoders = [decoder.detach().clone().requires_grad_(on) for on in (True, needed[1])]
    for values, rows in zip(codes, decoders, strict=True):
        sparse_decode(values, indices, rows).pow(2).sum().backward()
    for both, one in ((codes[0], codes[1]), (decoders[0], decoders[1])):
        if one.requires_grad:
            assert one.grad is not None and both.grad is not None
            torch.testing.assert_close(one.grad, both.grad)
