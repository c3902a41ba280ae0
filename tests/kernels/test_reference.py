import pytest
import torch

from outcrop.kernels import reference


def test_topk_takes_the_largest_and_no_negative_ones() -> None:
    x, weight = torch.eye(2), torch.tensor([[1.0, -1.0], [3.0, -2.0], [2.0, -3.0]])
    values, indices = reference.topk(x, weight, torch.zeros(3), 2)
    assert sorted(zip(indices[0].tolist(), values[0].tolist(), strict=True)) == [(1, 3.0), (2, 2.0)]
    assert values[1].tolist() == [0.0, 0.0]


def test_signed_topk_takes_the_least_negative() -> None:
    values, indices = reference.topk(torch.ones(1, 1), torch.tensor([[-3.0], [-1.0]]), torch.zeros(2), 1, signed=True)
    assert (values.item(), indices.item()) == (-1.0, 1)


def test_batchtopk_gives_busy_tokens_more_latents() -> None:
    x, weight = torch.tensor([[1.0], [10.0], [-1.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    values, _ = reference.batchtopk(x, weight, torch.zeros(3), 1)
    assert values.shape == (3, 3)
    assert sorted(values[1].tolist()) == [10.0, 20.0, 30.0]
    assert values[[0, 2]].sum() == 0


def test_groupmax_takes_one_latent_of_each_group_even_if_groups_differ_in_size() -> None:
    pre = torch.tensor([1.0, 5.0, 2.0, 4.0, -3.0])
    values, indices = reference.groupmax(torch.ones(1, 1), pre[:, None], torch.zeros(5), 2)
    assert values.tolist() == [[5.0, 4.0]]  # groups {0, 1} and {2, 3, 4}
    assert indices.tolist() == [[1, 3]]


@pytest.mark.parametrize("threshold", [1.0, torch.tensor(1.0), torch.tensor([1.0, 1.0, 4.0, -1.0])])
def test_above_keeps_what_is_over_the_threshold_and_positive(threshold: float | torch.Tensor) -> None:
    pre = torch.tensor([1.0, 2.0, 3.0, -0.5])
    values, indices = reference.above(torch.ones(1, 1), pre[:, None], torch.zeros(4), threshold)
    expected = [(1, 2.0)] if isinstance(threshold, torch.Tensor) and threshold.ndim else [(1, 2.0), (2, 3.0)]
    assert list(zip(indices[0].tolist(), values[0].tolist(), strict=True)) == expected


def test_the_products_are_those_of_the_dense_matrix_of_codes() -> None:
    values, indices = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[0, 2], [0, 1]])
    dense = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    rows, weight = torch.randn(2, 4), torch.randn(3, 4)
    torch.testing.assert_close(reference.weighted_rows(values, indices, weight), dense @ weight)
    torch.testing.assert_close(reference.row_products(rows, indices, weight), (rows @ weight.T).gather(1, indices))
    torch.testing.assert_close(reference.transposed_product(values, indices, rows, 3), dense.T @ rows)


def test_unit_rows_leaves_a_row_of_zeros() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    reference.unit_rows_(weight)
    torch.testing.assert_close(weight, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_what_is_counted_of_firings() -> None:
    """Latent 0 fires on positions 0, 1, 3 and 4, latent 1 never, latent 2 on position 2, which is in no window."""
    start, at = torch.tensor([0, 4, 4, 5]), torch.tensor([0, 1, 3, 4, 2], dtype=torch.int32)
    value = torch.tensor([1.0, 0.5, 1.9, 100.0, 0.01])
    types, places, windows = [6, 2, 6, 6, 2], [0, 1, 1, 0, 1], [0, 0, -1, 1, 2]
    documents, halves = [0, 0, 0, 0, 1], [1, 1, 1, 1, 0]
    where = torch.tensor([types, places, windows, documents, halves], dtype=torch.int32).T
    found = reference.count_firings(start, at, value, where, n_types=7, n_bins=4, n_places=2)
    assert found.total.tolist() == pytest.approx([103.4, 0, 0.01])
    assert found.bins.tolist() == [[0, 1, 2, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert found.places.tolist() == [[2, 2], [0, 0], [0, 1]]
    assert found.windows.tolist() == [[1, 2], [0, 0], [0, 0]]
    assert found.documents.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert (found.indptr.tolist(), found.types.tolist(), found.counts.tolist()) == ([0, 2, 2, 3], [2, 6, 6], [2, 2, 1])
