import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from outcrop.errors import ConfigError, CorruptError
from outcrop.latents import nearest
from outcrop.latents.nearest import WindowIndex
from outcrop.latents.semantic import build_index, semantic_rows
from outcrop.latents.windows import Grid
from outcrop.model.corpus import Corpus
from outcrop.model.embed import Embedder
from outcrop.types import Vocabulary

N_WORDS, WINDOW, WIDTH = 600, 6, 24
WORDS = Vocabulary(tuple(f" word{i}".encode() for i in range(N_WORDS)))


class BagOfWords:
    """Encodes a text as the sum of random directions, one per word; counts texts, and may be killed."""

    def __init__(self, lives: float = float("inf")) -> None:
        self.n_texts, self._lives = 0, lives

    def encode(self, texts: Sequence[str], **_: Any) -> ndarray:
        self.n_texts += len(texts)
        if self.n_texts > self._lives:
            raise KeyboardInterrupt
        rows = np.array([np.sum([_direction(word) for word in text.split()], axis=0) for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _direction(word: str) -> ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(WIDTH)


def grid_of(windows: ndarray) -> Grid:
    """These windows, behind one another in one document."""
    n = windows.size
    corpus = Corpus(
        tokens=windows.ravel().astype(np.int32),
        context_start=np.array([0, n]),
        context_document=np.zeros(1, dtype=np.int32),
        eligible=np.ones(n, dtype=bool),
    )
    return Grid(corpus, np.arange(n).reshape(windows.shape), np.arange(n))


def random_grid(n: int, seed: int = 0) -> Grid:
    return grid_of(np.random.default_rng(seed).integers(0, N_WORDS, (n, WINDOW)))


def clustered_grid(n: int, n_topics: int = 60) -> Grid:
    """Each window's words are of one topic of ten."""
    generator = np.random.default_rng(1)
    topic = generator.integers(0, n_topics, (n, 1))
    return grid_of(topic * 10 + generator.integers(0, 10, (n, WINDOW)))


def build(grid: Grid, directory: Path, module: BagOfWords | None = None, **settings: Any) -> WindowIndex:
    return build_index(grid, WORDS, Embedder(module or BagOfWords(), "words"), directory, **settings)


def brute_force(grid: Grid) -> ndarray:
    """The cosine of every pair, with what is stored of them; none with oneself."""
    rows = BagOfWords().encode([WORDS.text(tokens) for tokens in grid.tokens]).astype(np.float16).astype(np.float32)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -np.inf)
    return cosine


@pytest.fixture(scope="module")
def grid() -> Grid:
    return random_grid(350)


def only_folder(directory: Path) -> Path:
    (folder,) = directory.iterdir()
    return folder


def test_the_nearest_are_those_of_brute_force(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK", 64)
    index = build(grid, tmp_path, part_windows=100)
    rows = np.array([0, 99, 100, 349, 7])
    found, cosine = index.nearest(rows, 20)
    true = brute_force(grid)[rows]
    assert np.array_equal(found, np.argsort(-true, axis=1)[:, :20])
    np.testing.assert_allclose(cosine, -np.sort(-true, axis=1)[:, :20], atol=1e-5)
    assert index.recall == 1.0


def test_a_window_is_no_neighbour_of_its_own_and_a_twin_is_at_distance_zero(tmp_path: Path) -> None:
    index = build(grid_of(np.array([[1, 2], [3, 4], [2, 1], [5, 6]])), tmp_path)
    found, cosine = index.nearest(np.array([0, 2]), 1)
    assert found.tolist() == [[2], [0]]
    assert (cosine <= 1).all() and (cosine > 0.999).all()


def test_a_small_grid_gives_all_others(tmp_path: Path) -> None:
    index = build(random_grid(4), tmp_path)
    found, _ = index.nearest(np.array([2]), 50)
    assert sorted(found[0].tolist()) == [0, 1, 3]
    assert build(random_grid(1), tmp_path).nearest(np.array([0]), 50)[0].shape == (1, 0)


def test_semantic_rows_equal_their_definition(grid: Grid, tmp_path: Path) -> None:
    index, cosine = build(grid, tmp_path), brute_force(grid)
    fires = np.random.default_rng(2).random(grid.n_windows) < 0.3
    anchors = np.flatnonzero(fires)[:8]
    expected: dict[int, tuple[float, int]] = {}
    for anchor in anchors.tolist():
        for row in np.argsort(-cosine[anchor])[:50].tolist():
            if not fires[row]:
                nearer = (1 - cosine[anchor, row], anchor)
                expected[row] = min(nearer, expected.get(row, nearer))
    found = semantic_rows(index, anchors, fires)
    assert found.rows.tolist() == sorted(expected)
    assert found.source.tolist() == [expected[row][1] for row in sorted(expected)]
    np.testing.assert_allclose(found.distance, [expected[row][0] for row in sorted(expected)], atol=1e-5)


@pytest.mark.parametrize("exact_windows", [0, 1_000])
def test_without_anchors_or_other_windows_there_are_no_semantic_rows(
    grid: Grid, tmp_path: Path, exact_windows: int
) -> None:
    index = build(grid, tmp_path, exact_windows=exact_windows)
    none = np.empty(0, dtype=np.int64)
    assert len(semantic_rows(index, none, np.zeros(grid.n_windows, dtype=bool)).rows) == 0
    assert len(semantic_rows(index, np.array([3]), np.ones(grid.n_windows, dtype=bool)).rows) == 0


def test_a_killed_build_goes_on_where_it_was_to_the_same_files(grid: Grid, tmp_path: Path) -> None:
    build(grid, tmp_path / "whole", part_windows=100)
    with pytest.raises(KeyboardInterrupt):
        build(grid, tmp_path / "killed", BagOfWords(lives=250), part_windows=100)
    assert all(path.name.startswith(".") for path in (tmp_path / "killed").iterdir()), "complete or absent"
    rest = BagOfWords()
    build(grid, tmp_path / "killed", rest, part_windows=100)
    assert rest.n_texts == 150
    whole, killed = only_folder(tmp_path / "whole"), only_folder(tmp_path / "killed")
    assert whole.name == killed.name
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == {p.name: p.read_bytes() for p in killed.iterdir()}


def test_an_index_that_is_there_is_opened_and_nothing_embedded(grid: Grid, tmp_path: Path) -> None:
    first, again = build(grid, tmp_path), BagOfWords()
    rows = np.arange(10)
    assert np.array_equal(build(grid, tmp_path, again).nearest(rows, 5)[0], first.nearest(rows, 5)[0])
    assert again.n_texts == 0


def test_a_grid_that_has_grown_takes_the_parts_that_are_there(tmp_path: Path) -> None:
    windows = np.random.default_rng(4).integers(0, N_WORDS, (350, WINDOW))
    rest, alone = BagOfWords(), build(grid_of(windows), tmp_path / "alone", part_windows=100)
    build(grid_of(windows[:230]), tmp_path / "grown", part_windows=100)
    grown = build(grid_of(windows), tmp_path / "grown", rest, part_windows=100)
    assert rest.n_texts == 150, "two whole parts are there, the third was shorter"
    rows = np.arange(350)
    for mine, expected in zip(grown.nearest(rows, 20), alone.nearest(rows, 20), strict=True):
        assert np.array_equal(mine, expected)
    (earlier,) = (path for path in (tmp_path / "grown").iterdir() if len(list(path.glob("part_*"))) == 3)
    shutil.rmtree(earlier)
    assert np.array_equal(build(grid_of(windows), tmp_path / "grown").nearest(rows, 20)[0], alone.nearest(rows, 20)[0])


def test_a_part_of_other_words_another_embedder_or_a_damaged_index_is_not_taken(tmp_path: Path) -> None:
    windows = np.random.default_rng(4).integers(0, N_WORDS, (350, WINDOW))
    build(grid_of(windows[:230]), tmp_path, part_windows=100)
    _truncate(only_folder(tmp_path))
    shorter = BagOfWords()
    build(grid_of(windows[:300]), tmp_path, shorter, part_windows=100)
    assert shorter.n_texts == 200, "the first part alone is whole and the same"
    for words, name in ((Vocabulary((*WORDS.pieces[:-1], b" else")), "words"), (WORDS, "others")):
        every = BagOfWords()
        build_index(grid_of(windows), words, Embedder(every, name), tmp_path, part_windows=100)
        assert every.n_texts == 350


def test_other_windows_words_or_embedders_have_an_index_of_their_own(grid: Grid, tmp_path: Path) -> None:
    fewer = replace(grid, positions=grid.positions[:-1])
    other_words = Vocabulary((*WORDS.pieces[:-1], b" else"))
    build(grid, tmp_path), build(fewer, tmp_path)
    build_index(grid, other_words, Embedder(BagOfWords(), "words"), tmp_path)
    build_index(grid, WORDS, Embedder(BagOfWords(), "others"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def _truncate(folder: Path) -> None:
    part = folder / "part_00001.npy"
    part.write_bytes(part.read_bytes()[:-10])


def _lose_a_part(folder: Path) -> None:
    (folder / "part_00002.npy").unlink()


def _lose_the_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def _scramble_the_index(folder: Path) -> None:
    (folder / "index.json").write_text("[]")


def _forget_all_parts(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "files": {}}))


def _forget_a_part(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    del index["files"]["part_00003.npy"]
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "damage",
    [_truncate, _lose_a_part, _lose_the_index, _scramble_the_index, _forget_a_part, _forget_all_parts],
    ids=lambda f: f.__name__,
)
def test_a_damaged_index_is_refused(grid: Grid, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    build(grid, tmp_path, part_windows=100)
    damage(only_folder(tmp_path))
    with pytest.raises(CorruptError, match="embed again"):
        build(grid, tmp_path)


def test_a_damaged_part_of_a_killed_build_is_refused(grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(grid, tmp_path, BagOfWords(lives=250), part_windows=100)
    _truncate(only_folder(tmp_path))
    with pytest.raises(CorruptError, match="truncated part"):
        build(grid, tmp_path, part_windows=100)


def test_a_foreign_index_is_refused(grid: Grid, tmp_path: Path) -> None:
    build(grid, tmp_path / "ours"), build(random_grid(350, seed=3), tmp_path / "theirs")
    ours = only_folder(tmp_path / "ours")
    shutil.rmtree(ours)
    only_folder(tmp_path / "theirs").rename(ours)
    with pytest.raises(CorruptError, match="made of other windows"):
        build(grid, tmp_path / "ours")


def test_approximate_search_finds_nine_of_ten_in_clusters_and_says_so(tmp_path: Path) -> None:
    grid = clustered_grid(3_000)
    exact, rough = build(grid, tmp_path / "exact"), build(grid, tmp_path / "rough", exact_windows=2_999)
    rows = np.arange(grid.n_windows)
    pairs = zip(exact.nearest(rows, 50)[0], rough.nearest(rows, 50)[0], strict=True)
    recall = np.mean([np.isin(true, found).mean() for true, found in pairs])
    assert rough.recall >= 0.9 and abs(rough.recall - recall) < 0.03
    assert exact.lists is None and rough.lists is not None


def test_approximate_search_gives_every_row_its_true_cosine(tmp_path: Path) -> None:
    grid = clustered_grid(3_000)
    found, cosine = build(grid, tmp_path, exact_windows=0).nearest(np.arange(0, 3_000, 100), 30)
    true = brute_force(grid)[np.arange(0, 3_000, 100)]
    np.testing.assert_allclose(cosine, np.take_along_axis(true, found, axis=1), atol=1e-5)
    assert (np.diff(cosine, axis=1) <= 0).all()


def test_lists_that_hold_too_few_are_not_enough(grid: Grid, tmp_path: Path) -> None:
    rough = build(grid, tmp_path, exact_windows=0)
    found, _ = rough.nearest(np.array([0, 5]), 349)
    assert np.array_equal(np.sort(found, axis=1)[0], np.arange(1, 350))


def test_lists_are_the_same_whenever_they_are_made(grid: Grid, tmp_path: Path) -> None:
    one, two = (build(grid, tmp_path / name, exact_windows=0) for name in ("one", "two"))
    assert one.recall == two.recall
    files = [(only_folder(tmp_path / name) / "lists.faiss").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_truncated_or_altered_lists_are_refused(grid: Grid, tmp_path: Path) -> None:
    build(grid, tmp_path, exact_windows=0)
    lists = only_folder(tmp_path) / "lists.faiss"
    whole = lists.read_bytes()
    lists.write_bytes(whole[:-10])
    with pytest.raises(CorruptError, match="truncated or altered"):
        build(grid, tmp_path, exact_windows=0)
    lists.write_bytes(bytes(len(whole)))
    with pytest.raises(CorruptError, match="is altered"):
        build(grid, tmp_path, exact_windows=0)


def test_a_missing_faiss_is_named_with_its_remedy(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'outcrop\[semantic\]'"):
        build(grid, tmp_path, exact_windows=0)
    build(grid, tmp_path)  # exact search does without
