import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from outcrop.latents.cache import Firings
from outcrop.latents.windows import build_grid
from outcrop.model.corpus import Corpus
from outcrop.types import Vocabulary
from tests.latents.conftest import WINDOW, Cached

LETTERS = Vocabulary((*(f" w{chr(97 + i)}".encode() for i in range(26)), b" 1", b" 2", b"!", b" WA"))


def corpus_of(documents: list[list[int]], eligible: list[list[bool]] | None = None) -> Corpus:
    """One context per document, whose first token is not eligible unless told."""
    flags = eligible or [[False] + [True] * (len(d) - 1) for d in documents]
    return Corpus(
        tokens=np.array([t for d in documents for t in d], dtype=np.int32),
        context_start=np.cumsum([0, *map(len, documents)]).astype(np.int64),
        context_document=np.arange(len(documents), dtype=np.int32),
        eligible=np.array([f for d in flags for f in d], dtype=bool),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 25), st.booleans()), min_size=1, max_size=40), min_size=1, max_size=8)
)
def test_windows_are_full_disjoint_eligible_and_cross_no_document(documents: list[list[tuple[int, bool]]]) -> None:
    corpus = corpus_of([[t for t, _ in d] for d in documents], [[f for _, f in d] for d in documents])
    grid = build_grid(corpus, corpus.eligible, 4, LETTERS)
    assert grid.positions.shape == (grid.n_windows, 4)
    assert len(np.unique(grid.positions)) == grid.positions.size
    assert corpus.eligible[grid.positions].all()
    assert (np.diff(grid.positions, axis=1) > 0).all()
    assert (corpus.document_of[grid.positions] == grid.document[:, None]).all()
    assert grid.n_off_grid + grid.positions.size == corpus.n_eligible
    most = sum(sum(f for _, f in d) // 4 for d in documents)
    assert grid.n_windows <= most  # fewer only where windows repeat


def test_a_hole_is_skipped_and_a_tail_left_off() -> None:
    corpus = corpus_of([[0, 1, 2, 3, 4, 5, 6]], [[False, True, False, True, True, True, True]])
    assert build_grid(corpus, corpus.eligible, 2, LETTERS).positions.tolist() == [[1, 3], [4, 5]]


def test_repeats_and_near_repeats_stay_off_the_grid() -> None:
    a, one, two, bang, upper = 0, 26, 27, 28, 29
    documents = [[9, a, one], [9, a, one], [9, upper, two], [9, a, bang], [9, 3, 4]]
    corpus = corpus_of(documents)
    assert build_grid(corpus, corpus.eligible, 2, LETTERS).document.tolist() == [0, 3, 4]


def test_peaks_and_windows_equal_the_dense_computation(cached: Cached) -> None:
    by_window = cached.dense[cached.grid.positions]  # [windows w latents]
    for latent in range(0, cached.cache.n_latents, 5):
        firings = cached.cache[latent]
        rows, peaks, at = cached.grid.peaks(firings)
        expected = by_window[:, :, latent].max(axis=1)
        assert np.array_equal(rows, np.flatnonzero(expected))
        np.testing.assert_allclose(peaks, expected[rows], rtol=2e-3)
        np.testing.assert_allclose(cached.dense[at, latent], expected[rows], rtol=2e-3)
        assert np.array_equal(cached.grid.row_of[at], rows)
        every = np.arange(0, cached.grid.n_windows, 17)
        for row, window in zip(every.tolist(), cached.grid.windows(every, firings), strict=True):
            assert window.tokens.shape == window.activations.shape == (WINDOW,)
            np.testing.assert_allclose(window.activations, by_window[row, :, latent], rtol=2e-3)
            first = cached.grid.corpus.context_start[window.context] + window.offset
            assert first == cached.grid.positions[row, 0]


def test_a_latent_that_never_fires_has_an_empty_window() -> None:
    corpus = corpus_of([[0, 1, 2]])
    grid = build_grid(corpus, corpus.eligible, 2, LETTERS)
    never = Firings(np.empty(0, np.int64), np.empty(0, np.float32))
    assert grid.windows(np.array([0]), never)[0].activations.tolist() == [0, 0]
    assert len(grid.peaks(never)[0]) == 0
