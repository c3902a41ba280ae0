"""The cached, batched reader beside one text at a time without a cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from outcrop.config import ModelConfig
from outcrop.model.likelihood import Reader
from outcrop.model.load import LanguageModel, load_model
from tests.tiny import sentences, write_model

PREFIX = "River bank water:\n\n"
TEXTS = [text[: 20 + 13 * (i % 5)] for i, text in enumerate(sentences(11, seed=3))]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(ModelConfig(name=str(write_model(tmp_path_factory.mktemp("lm") / "tiny")), dtype="float32"))


def alone(lm: LanguageModel, prefix: str, text: str, first: list[int]) -> float:
    before = [*first, *lm.tokenizer(prefix)["input_ids"]]
    tokens = lm.tokenizer(text)["input_ids"]
    log_p = lm.module(torch.tensor([before + tokens]), use_cache=False).logits[0].log_softmax(-1)
    return -float(np.mean([log_p[len(before) + i - 1, token].item() for i, token in enumerate(tokens)]))


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_cache_and_batches_change_nothing(lm: LanguageModel, batch: int) -> None:
    found = Reader(lm, batch).mean_nll(PREFIX, TEXTS)
    np.testing.assert_allclose(found, [alone(lm, PREFIX, text, []) for text in TEXTS], rtol=1e-5)


def test_the_prefix_matters_and_may_be_one_token(lm: LanguageModel) -> None:
    assert len(lm.tokenizer("a")["input_ids"]) == 1
    one = Reader(lm, 4).mean_nll("a", TEXTS)
    np.testing.assert_allclose(one, [alone(lm, "a", text, []) for text in TEXTS], rtol=1e-5)
    assert np.abs(one - Reader(lm, 4).mean_nll(PREFIX, TEXTS)).min() > 1e-4


def test_a_beginning_of_text_stands_first_where_there_is_one(lm: LanguageModel, tmp_path: Path) -> None:
    lm.tokenizer.save_pretrained(tmp_path)
    tokenizer = type(lm.tokenizer).from_pretrained(tmp_path, bos_token="<|end|>")
    found = Reader(replace(lm, tokenizer=tokenizer), 4).mean_nll(PREFIX, TEXTS)
    np.testing.assert_allclose(found, [alone(lm, PREFIX, text, [0]) for text in TEXTS], rtol=1e-5)


def test_the_prefix_is_run_once(lm: LanguageModel) -> None:
    widths: list[tuple[int, ...]] = []
    hook = lm.module.get_input_embeddings().register_forward_hook(lambda _, given, __: widths.append(given[0].shape))
    Reader(lm, 4).mean_nll(PREFIX, TEXTS)
    hook.remove()
    n_prefix = len(lm.tokenizer(PREFIX)["input_ids"])
    longest = max(len(lm.tokenizer(text)["input_ids"]) for text in TEXTS)
    assert widths[0] == (1, n_prefix - 1)
    assert [rows for rows, _ in widths[1:]] == [4, 4, 3]
    assert max(width for _, width in widths[1:]) == longest


def test_texts_that_cannot_be_read_are_missing_and_change_no_other(lm: LanguageModel) -> None:
    texts = [TEXTS[0], "", TEXTS[1] * 40, TEXTS[2]]
    found = Reader(lm, 4).mean_nll(PREFIX, texts)
    assert np.isnan(found).tolist() == [False, True, True, False]
    np.testing.assert_allclose(found[[0, 3]], Reader(lm, 1).mean_nll(PREFIX, [TEXTS[0], TEXTS[2]]), rtol=1e-5)
    assert np.isnan(Reader(lm, 4).mean_nll(PREFIX * 100, TEXTS)).all()
    assert Reader(lm, 4).mean_nll(PREFIX, []).shape == (0,)
