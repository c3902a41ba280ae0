import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcrop.latents.sampling import in_turn, quantiles, sample

PEAKS = np.linspace(1, 10, 100, dtype=np.float32)


def drawn(sampler: str, n: int = 10, seed: int = 0) -> np.ndarray:
    return sample(sampler, PEAKS, n, 5, np.random.default_rng(seed))  # type: ignore[arg-type]


@given(st.integers(0, 60), st.integers(1, 7))
def test_quantiles_are_of_equal_size_and_in_order(n: int, n_quantiles: int) -> None:
    label = quantiles(n, n_quantiles)
    sizes = np.bincount(label, minlength=n_quantiles + 1)[1:]
    assert len(label) == n and (np.diff(label) >= 0).all() and sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("sampler", ["quantiles", "top", "random", "mix", "importance"])
@pytest.mark.parametrize("n", [4, 10, 100, 130])
def test_every_sampler_gives_different_windows_and_no_more_than_there_are(sampler: str, n: int) -> None:
    for seed in range(5):
        found = drawn(sampler, n, seed)
        assert len(np.unique(found)) == len(found) == min(n, 100)


def test_samplers_take_what_they_say() -> None:
    assert drawn("top").tolist() == list(range(90, 100))
    assert np.bincount(drawn("quantiles") // 20).tolist() == [2] * 5
    mixed = drawn("mix")
    assert mixed[-5:].tolist() == list(range(95, 100)) and np.bincount(mixed[:5] // 19).tolist() == [1] * 5
    weak = np.mean([(drawn("importance", seed=s) < 50).mean() for s in range(300)])
    assert weak == pytest.approx(PEAKS[:50].sum() / PEAKS.sum(), abs=0.03)
    assert np.mean([(drawn("random", seed=s) < 50).mean() for s in range(300)]) == pytest.approx(0.5, abs=0.04)


def test_every_source_comes_first_sometimes() -> None:
    source = np.repeat(np.arange(4), (50, 3, 1, 20))
    first = [int(source[in_turn(source, 2, np.random.default_rng(seed))[0]]) for seed in range(100)]
    assert min(np.bincount(first, minlength=4)) > 10


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 50), st.integers(0, 9))
def test_sources_take_turns(source: list[int], n: int, seed: int) -> None:
    found = in_turn(np.array(source, dtype=np.int64), n, np.random.default_rng(seed))
    assert len(np.unique(found)) == len(found) == min(n, len(source))
    have, got = (np.bincount(np.array(s, dtype=int), minlength=6) for s in (source, np.array(source)[found]))
    most = got.max(initial=0)
    assert all(g >= min(h, most - 1) for h, g in zip(have, got, strict=True)), "none is behind but for want of windows"
