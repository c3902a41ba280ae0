"""The compiled kernels against the reference, on the same inputs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from outcrop.kernels import Codes, build, coarse, cpu, memory, primitives, reference

pytestmark = pytest.mark.skipif(not cpu.available(), reason="no C compiler here")

# n, d, M, k: one token; k = M; nothing a multiple of anything; several chunks of tokens; large
SIZES = [(1, 5, 7, 2), (3, 4, 6, 6), (50, 37, 131, 9), (500, 64, 300, 32), (300, 200, 2048, 64)]
by_size = pytest.mark.parametrize(("n", "d", "m", "k"), SIZES)


@pytest.fixture(params=["this CPU's product", "torch's in bfloat16", "torch's in float32"], autouse=True)
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways to the coarse product, on every CPU that has them."""
    if request.param.startswith("torch's"):
        monkeypatch.setattr(cpu, "problems", coarse.torch_problems)
        monkeypatch.setattr(coarse, "_has_bfloat16", lambda: request.param.endswith("bfloat16"))


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def integers(n: int, d: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Small integers, whose sums are exact in any order: full of ties and zeros."""
    generator = torch.Generator().manual_seed(n + d + m)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    return draw(n, d), draw(m, d), draw(m)


def normal(n: int, d: int, m: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Normal numbers; with a spread, some dimensions and some latents are much wider than others."""
    generator = torch.Generator().manual_seed(n + d + m)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((n, d), (m, d), (m,)))
    wide = torch.randn(d, generator=generator).mul(spread).exp()
    large = torch.randn(m, 1, generator=generator).exp()
    return (x, weight, bias) if spread == 1.0 else (x * wide, weight * large, bias)


def by_value(codes: Codes) -> Tensor:
    return codes[0].sort(dim=1, descending=True).values


def as_dense(codes: Codes, m: int) -> Tensor:
    return torch.zeros(len(codes[0]), m).scatter_add(1, codes[1], codes[0])


def assert_true_values(codes: Codes, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Each value that is not zero is the pre-activation of its latent, and no latent is taken twice."""
    pre = (x.double() @ weight.double().T + bias).float()
    fires = codes[0] != 0
    torch.testing.assert_close(codes[0][fires], pre.gather(1, codes[1])[fires], atol=1e-4, rtol=1e-4)
    taken = torch.zeros_like(pre).scatter_add(1, codes[1], fires.float())
    assert taken.max() <= 1


@by_size
@pytest.mark.parametrize("signed", [False, True])
def test_topk_of_integers_is_exact(n: int, d: int, m: int, k: int, signed: bool, threads: int) -> None:
    x, weight, bias = integers(n, d, m)
    codes = cpu.topk(x, weight, bias, k, signed=signed)
    assert torch.equal(by_value(codes), by_value(reference.topk(x, weight, bias, k, signed=signed)))
    assert_true_values(codes, x, weight, bias)


@by_size
@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_topk_takes_the_references_latents(n: int, d: int, m: int, k: int, spread: float) -> None:
    x, weight, bias = normal(n, d, m, spread)
    ours, theirs = cpu.topk(x, weight, bias, k), reference.topk(x, weight, bias, k)
    torch.testing.assert_close(as_dense(ours, m), as_dense(theirs, m), atol=1e-4, rtol=1e-4)


@by_size
def test_batchtopk_of_integers_is_exact(n: int, d: int, m: int, k: int) -> None:
    x, weight, bias = integers(n, d, m)
    codes, theirs = cpu.batchtopk(x, weight, bias, k), reference.batchtopk(x, weight, bias, k)
    assert torch.equal(codes[0].flatten().sort().values[-n * k :], theirs[0].flatten().sort().values[-n * k :])
    assert_true_values(codes, x, weight, bias)


def test_batchtopk_finds_enough_where_few_tokens_hold_all_the_activity() -> None:
    x, weight, bias = normal(1000, 16, 200)
    x[torch.arange(1000) % 15 != 7] *= 1e-3  # none of the sampled tokens is among the busy ones, or all are
    ours, theirs = cpu.batchtopk(x, weight, bias * 0, 4), reference.batchtopk(x, weight, bias * 0, 4)
    torch.testing.assert_close(as_dense(ours, 200), as_dense(theirs, 200), atol=1e-5, rtol=1e-5)


@by_size
def test_groupmax_of_integers_is_exact(n: int, d: int, m: int, k: int, threads: int) -> None:
    x, weight, bias = integers(n, d, m)
    codes = cpu.groupmax(x, weight, bias, k)
    assert torch.equal(codes[0], reference.groupmax(x, weight, bias, k)[0])
    assert_true_values(codes, x, weight, bias)


@by_size
def test_groupmax_takes_the_references_latents(n: int, d: int, m: int, k: int) -> None:
    x, weight, bias = normal(n, d, m, 2.0)
    ours, theirs = cpu.groupmax(x, weight, bias, k), reference.groupmax(x, weight, bias, k)
    torch.testing.assert_close(as_dense(ours, m), as_dense(theirs, m), atol=1e-4, rtol=1e-4)


@by_size
@pytest.mark.parametrize("share", [0.0, 0.1, 0.99, 1.0])
def test_above_of_integers_is_exact(n: int, d: int, m: int, k: int, share: float, threads: int) -> None:
    x, weight, bias = integers(n, d, m)
    threshold = float((x @ weight.T + bias).flatten().quantile(share).round())
    for at in (threshold, threshold + torch.arange(m) % 3 - 1):
        ours, theirs = cpu.above(x, weight, bias, at), reference.above(x, weight, bias, at)
        assert torch.equal(as_dense(ours, m), as_dense(theirs, m))
        assert ours[0].shape == theirs[0].shape


def test_rows_that_are_all_negative_select_zeros() -> None:
    x, weight, bias = torch.ones(3, 20), -torch.ones(70, 20), torch.zeros(70)
    for values, indices in (
        cpu.topk(x, weight, bias, 5),
        cpu.batchtopk(x, weight, bias, 5),
        cpu.groupmax(x, weight, bias, 5),
        cpu.above(x, weight, bias, 0.0),
    ):
        assert values.abs().sum() == 0
        assert ((indices >= 0) & (indices < 70)).all()


def test_a_token_of_zeros_takes_the_largest_biases() -> None:
    bias = torch.arange(-50.0, 50.0)
    values, indices = cpu.topk(torch.zeros(2, 9), torch.randn(100, 9), bias, 3)
    assert sorted(indices[0].tolist()) == [97, 98, 99]
    assert sorted(values[0].tolist()) == [47.0, 48.0, 49.0]


def test_codes_come_in_the_order_of_latents_and_ties_go_to_the_first() -> None:
    weight = torch.tensor([1.0, 3.0, 2.0, 2.0, 3.0, 2.0])[:, None]
    _, indices = cpu.topk(torch.ones(1, 1), weight, torch.zeros(6), 4)
    assert indices.tolist() == [[1, 2, 3, 4]]
    _, indices = cpu.groupmax(torch.ones(1, 1), weight, torch.zeros(6), 2)
    assert indices.tolist() == [[1, 4]]


def test_ties_across_a_whole_row_still_give_k_different_latents() -> None:
    values, indices = cpu.topk(torch.ones(2, 3), torch.ones(500, 3), torch.zeros(500), 40)
    assert (values == 3).all()
    assert all(len(set(row.tolist())) == 40 for row in indices)


@by_size
def test_products_of_integers_are_exact(n: int, d: int, m: int, k: int, threads: int) -> None:
    rows, weight, _ = integers(n, d, m)
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(-2, 3, (n, k), generator=generator).float()
    indices = torch.randint(m, (n, k), generator=generator)
    assert torch.equal(cpu.weighted_rows(values, indices, weight), reference.weighted_rows(values, indices, weight))
    assert torch.equal(cpu.row_products(rows, indices, weight), reference.row_products(rows, indices, weight))
    ours = cpu.transposed_product(values, indices, rows, m)
    assert torch.equal(ours, reference.transposed_product(values, indices, rows, m))
    gradients = reference.decode_gradients(values, indices, weight, rows)
    assert all(map(torch.equal, cpu.decode_gradients(values, indices, weight, rows), gradients))


def test_unit_rows_are_the_references() -> None:
    ours = torch.randn(70, 33)
    ours[3] = 0
    theirs = ours.clone()
    cpu.unit_rows_(ours)
    reference.unit_rows_(theirs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_a_step_of_signum_is_the_references(unit: bool, share: float) -> None:
    grad, *ours = (torch.randn(37, 19, generator=torch.Generator().manual_seed(i)) for i in range(4))
    grad[:, ::3] = 0
    theirs = [tensor.clone() for tensor in ours]
    for module, tensors in ((cpu, ours), (reference, theirs)):
        module.signum_(grad, *tensors, lr=0.1, share=share, beta=0.95, unit=unit)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)
    if unit:
        torch.testing.assert_close(ours[1].norm(dim=1), torch.ones(37))


def test_tensors_that_are_not_contiguous_are_read_rightly() -> None:
    x, weight, bias = integers(20, 30, 40)
    apart = torch.stack([weight, -weight], dim=2)[:, :, 0]
    assert torch.equal(by_value(cpu.topk(x, apart, bias, 4)), by_value(cpu.topk(x, weight, bias, 4)))
    rows = torch.zeros(40, 60)[:, ::2].copy_(weight)
    cpu.unit_rows_(rows)
    torch.testing.assert_close(rows, torch.nn.functional.normalize(weight, dim=1))


def test_the_same_inputs_give_the_same_bits_whatever_the_number_of_threads() -> None:
    x, weight, bias = normal(500, 96, 1000)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        values, indices = cpu.topk(x, weight, bias, 16)
        results.append((values, indices, cpu.transposed_product(values, indices, x, 1000)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_no_score_is_further_off_than_its_bound(spread: float) -> None:
    x, weight, bias = normal(96, 96, 1000, spread)
    ((_, problem),) = cpu.problems(x, weight, bias)
    of, scores = problem.tensors, torch.empty(96, problem.stride, dtype=torch.bfloat16)
    if "latents" in of:
        build.call("product", problem, 0, scores)
    score = (scores if "latents" in of else of["scores"][:96])[:, :1000].double()
    exact = x.double() @ weight.double().T + bias
    of_token = of["token_error"][:96, None] * of["latent_norm"][None, :1000]
    of_latent = of["token_norm"][:96, None] * of["latent_error"][None, :1000]
    assert ((score - exact).abs() <= torch.hypot(of_token, of_latent) + score.abs() / 256).all()


def test_float32_on_the_cpu_is_compiled_and_the_rest_is_not() -> None:
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.double)
    assert primitives.backend(single, single) is cpu
    assert primitives.backend(single, double) is reference
    assert primitives.backend(single.to("meta")) is reference


def test_memory_is_used_again_once_its_tensor_has_died() -> None:
    first = memory.recycled(1 << 20, 2)
    address = first.data_ptr()
    second = memory.recycled(1 << 20, 2)
    assert second.data_ptr() != address
    del first
    assert memory.recycled(1 << 20, 2).data_ptr() == address


def test_a_view_keeps_its_memory() -> None:
    whole = memory.recycled(1 << 20, 3)
    address, view = whole.data_ptr(), whole[5:]
    del whole
    assert memory.recycled(1 << 20, 3).data_ptr() != address
    del view


def test_a_copy_in_large_pages_is_equal_and_apart() -> None:
    weight = torch.randn(1000, 300)
    copy = memory.in_large_pages(weight)
    assert torch.equal(copy, weight)
    copy.zero_()
    assert weight.abs().sum() > 0


def test_without_a_compiler_the_reference_is_used_and_this_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    build.library.cache_clear()
    try:
        assert primitives.backend(torch.zeros(1)) is reference
        assert primitives.backend(torch.zeros(1)) is reference
        assert len(caplog.records) == 1 and "no-such-compiler" in caplog.text
    finally:
        build.library.cache_clear()


def test_a_compiler_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    source = tmp_path / "broken.c"
    source.write_text("#error on purpose\n")
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library.cache_clear()
    try:
        assert not cpu.available()
        assert "on purpose" in caplog.text
    finally:
        build.library.cache_clear()


def test_memory_of_about_a_size_is_used_again() -> None:
    addresses = {memory.recycled(n, 608).data_ptr() for n in range(2_000, 2_060)}
    assert len(addresses) <= 2


@pytest.mark.parametrize(("n", "a", "b"), [(1, 1, 1), (70, 130, 9), (500, 40, 300)])
def test_co_firings_are_added_up_as_the_reference_does(n: int, a: int, b: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(n)
    fires, on = ((torch.rand(shape, generator=generator) < 0.1).int() for shape in ((a, n), (n, b)))
    (start, tokens), (token_start, others) = (
        (rows.sum(dim=1).cumsum(0), rows.nonzero()[:, 1].int()) for rows in (fires, on)
    )
    codes = torch.nn.functional.pad(start, (1, 0)), tokens, torch.nn.functional.pad(token_start, (1, 0)), others
    ours, theirs = torch.ones(a, b, dtype=torch.int32), torch.ones(a, b, dtype=torch.int32)
    cpu.add_co_firings_(ours, *codes)
    reference.add_co_firings_(theirs, *codes)
    assert torch.equal(ours, theirs) and torch.equal(ours, 1 + fires @ on)


@pytest.mark.parametrize(("n", "positions"), [(1, 1), (9, 70), (130, 4000)])
def test_firings_are_counted_as_the_reference_does(n: int, positions: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(n)
    fires = torch.rand(n, positions, generator=generator) < 0.1 * torch.arange(n)[:, None].remainder(3)  # a third never
    start, at = torch.nn.functional.pad(fires.sum(dim=1).cumsum(0), (1, 0)), fires.nonzero()[:, 1].int()
    value = torch.randn(len(at), generator=generator).mul(8).exp2()  # beyond the outer bins, both
    drawn = [torch.randint(high, (positions,), generator=generator) for high in (70, 5)]
    window = torch.arange(positions) // 8
    document = window // 6
    window = window.where(torch.rand(positions, generator=generator) < 0.8, -1)
    where = torch.stack([*drawn, window, document, document % 2], dim=1).int()
    sizes = {"n_types": 70, "n_bins": 8, "n_places": 5}
    ours, theirs = (each.count_firings(start, at, value, where, **sizes) for each in (cpu, reference))
    assert torch.allclose(ours.total, theirs.total)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours[1:], theirs[1:], strict=True))
    assert ours.counts.sum() == ours.bins.sum() == ours.places.sum() == len(at)
