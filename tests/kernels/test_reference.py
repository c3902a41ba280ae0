import torch
from torch import Tensor

from outcrop.kernels import sparse_decode, topk_encode


def dense(x: Tensor, weight: Tensor, bias: Tensor, decoder: Tensor, k: int) -> Tensor:
    """The slow, obvious reference: everything dense, autograd's own gradients."""
    pre = torch.relu(x @ weight.T + bias)
    mask = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
    return (pre * mask) @ decoder


def tensors(n: int = 7, d: int = 5, m: int = 11) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, d), (m, d), (m,), (m, d)]
    return [torch.randn(s, dtype=torch.double, generator=generator, requires_grad=True) for s in shapes]


def test_output_and_gradients_equal_the_dense_computation() -> None:
    x, weight, bias, decoder = tensors()
    sparse = sparse_decode(*topk_encode(x, weight, bias, 3), decoder)
    obvious = dense(x, weight, bias, decoder, 3)
    torch.testing.assert_close(sparse, obvious)
    upstream = torch.randn_like(sparse)
    for ours, theirs in zip(
        torch.autograd.grad(sparse, (x, weight, bias, decoder), upstream),
        torch.autograd.grad(obvious, (x, weight, bias, decoder), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_gradcheck() -> None:
    x, weight, bias, decoder = tensors()
    assert torch.autograd.gradcheck(
        lambda x, w, b, d: sparse_decode(*topk_encode(x, w, b, 3), d), (x, weight, bias, decoder)
    )


def test_a_selected_zero_gets_no_gradient() -> None:
    x = torch.ones(1, 2)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], requires_grad=True)
    values, indices = topk_encode(x, weight, torch.zeros(3), 2)
    assert sorted(values[0].tolist()) == [0.0, 1.0]  # only one pre-activation is positive; a zero is selected beside it
    sparse_decode(values, indices, torch.ones(3, 2)).sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].abs().sum() > 0
    assert weight.grad[1:].abs().sum() == 0


def test_ties_select_k_and_their_gradients_agree_with_the_selection() -> None:
    x = torch.ones(2, 1, dtype=torch.double)
    weight = torch.ones(4, 1, dtype=torch.double, requires_grad=True)
    values, indices = topk_encode(x, weight, torch.zeros(4, dtype=torch.double), 2)
    assert values.tolist() == [[1, 1], [1, 1]]
    values.sum().backward()
    assert weight.grad is not None
    expected = torch.bincount(indices.flatten(), minlength=4).double()
    torch.testing.assert_close(weight.grad[:, 0], expected)


def test_latents_that_nobody_selected_have_a_zero_gradient() -> None:
    x, weight, bias, decoder = tensors(n=1)
    values, indices = topk_encode(x, weight, bias, 2)
    sparse_decode(values, indices, decoder).sum().backward()
    assert decoder.grad is not None
    unused = [i for i in range(11) if i not in indices.flatten().tolist()]
    assert decoder.grad[unused].abs().sum() == 0
