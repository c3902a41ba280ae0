import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray

from outcrop.demo.assets import Assets
from outcrop.errors import AssetError, ConfigError, ModelError
from outcrop.model.embed import Embedder, load_embedder
from tests.tiny import write_model

CPU = torch.device("cpu")


class Lengths:
    """Encodes a text as (1, its length)."""

    def encode(self, texts: Sequence[str], **_: Any) -> ndarray:
        return np.array([[1.0, len(text)] for text in texts])


@dataclass(frozen=True)
class Always:
    """Encodes every text alike."""

    value: float

    def encode(self, texts: Sequence[str], **_: Any) -> ndarray:
        return np.full((len(texts), 2), self.value)


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    try:
        return load_embedder(str(Assets().sentence_embedder()), CPU)
    except AssetError as error:
        pytest.skip(str(error))


def test_rows_stand_in_the_order_of_the_texts_and_are_counted() -> None:
    done: list[int] = []

    @contextmanager
    def progress(description: str, total: int, unit: str, start: int = 0) -> Iterator[Any]:
        assert total == 2_500
        yield done.append

    rows = Embedder(Lengths(), "lengths")(["a" * (i % 7) for i in range(2_500)], progress)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[:, 1] / rows[:, 0], np.arange(2_500) % 7, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert sum(done) == 2_500 and len(done) > 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_embeddings_without_a_direction_are_refused(value: float) -> None:
    with pytest.raises(ModelError, match="broken gives NaN, infinite or zero"):
        Embedder(Always(value), "broken")(["a"])


def test_the_identity_tells_two_models_of_one_name_apart(tmp_path: Path) -> None:
    one, two = (load_embedder(str(write_model(tmp_path / str(seed) / "tiny.v2", seed)), CPU) for seed in (0, 1))
    assert one.identity != two.identity
    assert one.identity.startswith("tiny.v2-") and two.identity.startswith("tiny.v2-")


def test_a_plain_language_model_gives_unit_rows_that_no_neighbour_in_the_batch_changes(tmp_path: Path) -> None:
    embedder = load_embedder(str(write_model(tmp_path / "tiny")), CPU)
    texts = ["river", "bank water light", "music dance house mountain road storm garden castle"]
    rows = embedder(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([embedder([text]) for text in texts]), rows, atol=0.02)


def test_a_model_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no directory"):
        load_embedder(str(tmp_path / "none"), CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty holds no model"):
        load_embedder(str(tmp_path / "empty"), CPU)
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load the sentence embedder") as error:
        load_embedder(str(tmp_path / "empty"), CPU)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'outcrop\[semantic\]'"):
        load_embedder("all-MiniLM-L6-v2", CPU)


def test_minilm_puts_texts_of_one_meaning_next_to_one_another(minilm: Embedder) -> None:
    rows = minilm(
        [
            "The cat slept on the warm sofa.",
            "A kitten was dozing on the couch.",
            "Interest rates were raised by the central bank.",
            "The Federal Reserve tightened its monetary policy.",
        ]
    )
    assert rows.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    cosine = rows @ rows.T - 2 * np.eye(4)
    assert cosine.argmax(axis=1).tolist() == [1, 0, 3, 2]
    assert minilm.identity.startswith("all-MiniLM-L6-v2-")
