"""A reader that keeps what it read, beside one that does not."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from outcrop.config import ModelConfig
from outcrop.errors import CorruptError
from outcrop.model.likelihood import Reader
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.remembered import RememberingReader
from tests.model.test_likelihood import PREFIX, TEXTS
from tests.tiny import write_model


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(ModelConfig(name=str(write_model(tmp_path_factory.mktemp("lm") / "tiny")), dtype="float32"))


def remembering(lm: LanguageModel, folder: Path) -> RememberingReader:
    return RememberingReader(Reader(lm, 4), folder / "nll.sqlite")


def test_what_was_read_is_not_read_again(lm: LanguageModel, tmp_path: Path) -> None:
    read: list[int] = []
    hook = lm.module.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(len(given[0])))
    texts = [*TEXTS[:4], "", TEXTS[0]]
    first = remembering(lm, tmp_path).mean_nll(PREFIX, texts)
    assert read == [1, 4], "a text that stands twice is read once"
    read.clear()
    again = remembering(lm, tmp_path).mean_nll(PREFIX, texts)
    assert read == []
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, Reader(lm, 4).mean_nll(PREFIX, texts), rtol=1e-5)
    assert np.isnan(again).tolist() == [False] * 4 + [True, False]
    read.clear()
    more = remembering(lm, tmp_path).mean_nll(PREFIX, TEXTS[:6])
    assert read == [1, 2], "only what is new"
    np.testing.assert_allclose(more, Reader(lm, 4).mean_nll(PREFIX, TEXTS[:6]), rtol=1e-5)
    other = remembering(lm, tmp_path).mean_nll("a", TEXTS[:4])
    hook.remove()
    np.testing.assert_array_equal(other, Reader(lm, 4).mean_nll("a", TEXTS[:4]))


def test_a_damaged_file_of_what_was_read_is_told(lm: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "nll.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(CorruptError, match=r"nll.sqlite is damaged .*Remove it"):
        remembering(lm, tmp_path).mean_nll(PREFIX, TEXTS)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        remembering(lm, tmp_path / "missing").mean_nll(PREFIX, TEXTS)


def test_another_tokenizer_reads_anew(lm: LanguageModel, tmp_path: Path) -> None:
    remembering(lm, tmp_path).mean_nll(PREFIX, TEXTS[:2])
    lm.tokenizer.save_pretrained(tmp_path)
    begins = replace(lm, tokenizer=type(lm.tokenizer).from_pretrained(tmp_path, bos_token="<|end|>"))
    found = remembering(begins, tmp_path).mean_nll(PREFIX, TEXTS[:2])
    np.testing.assert_array_equal(found, Reader(begins, 4).mean_nll(PREFIX, TEXTS[:2]))
