from pathlib import Path

import numpy as np
import pytest

from outcrop.config import TextConfig
from outcrop.errors import TextError
from outcrop.model.corpus import Corpus, load_corpus, load_vocabulary, save_corpus, save_vocabulary
from outcrop.model.load import LanguageModel
from outcrop.model.tokens import deal, vocabulary
from tests.tiny import sentences

CONFIG = TextConfig("corpus.jsonl", context_tokens=16, max_document_tokens=40)


def dealt(model: LanguageModel, **wanted: int) -> dict[str, Corpus]:
    return deal(sentences(120), model.tokenizer, CONFIG, wanted)


def test_each_part_has_at_least_its_tokens_and_documents_of_its_own(model: LanguageModel) -> None:
    parts = dealt(model, held_out=100, cache=900)
    assert parts["held_out"].n_eligible >= 100
    assert 900 <= parts["cache"].n_eligible < 900 + 40
    documents = {
        part: {tuple(c.tokens[c.document_of == d].tolist()) for d in range(c.n_documents)} for part, c in parts.items()
    }
    assert not documents["held_out"] & documents["cache"]


def test_documents_and_contexts_are_cut_to_their_lengths(model: LanguageModel) -> None:
    corpus = dealt(model, cache=900)["cache"]
    assert np.diff(corpus.context_start).max() == 16
    assert np.bincount(corpus.document_of).max() == 40
    assert corpus.context_start[-1] == len(corpus.tokens)


def test_the_first_position_of_a_context_and_special_tokens_are_not_eligible(model: LanguageModel) -> None:
    special = model.tokenizer.all_special_ids[0]
    text = "river bank money" * 3
    documents = [text + model.tokenizer.decode([special]) + text]
    corpus = deal(documents, model.tokenizer, CONFIG, {"cache": 5})["cache"]
    assert special in corpus.tokens
    assert not corpus.eligible[corpus.context_start[:-1]].any()
    assert not corpus.eligible[corpus.tokens == special].any()
    rest = np.ones(len(corpus.tokens), dtype=bool)
    rest[corpus.context_start[:-1]] = False
    assert corpus.eligible[rest & (corpus.tokens != special)].all()


def test_a_repeated_document_counts_once(model: LanguageModel) -> None:
    document = sentences(1)[0]
    with pytest.raises(TextError, match="eligible tokens"):
        deal([document] * 50, model.tokenizer, CONFIG, {"cache": 200})


def test_too_short_a_text_says_what_it_holds_and_what_is_wanted(model: LanguageModel) -> None:
    with pytest.raises(TextError, match=r"corpus\.jsonl holds [\d,]+ eligible.*1,000,100 are wanted \(held_out 100"):
        dealt(model, held_out=100, cache=1_000_000)


def test_the_vocabulary_gives_the_text_back(model: LanguageModel) -> None:
    table = vocabulary(model.tokenizer)
    text = "River bank, 東京 and\n\tmoney — naïve 😀!"
    assert table.text(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_corpus_and_vocabulary_survive_their_files(model: LanguageModel, tmp_path: Path) -> None:
    corpus, table = dealt(model, cache=300)["cache"], vocabulary(model.tokenizer)
    save_corpus(corpus, tmp_path / "c.safetensors")
    save_vocabulary(table, tmp_path / "v.safetensors")
    assert load_corpus(tmp_path / "c.safetensors").hash == corpus.hash
    assert load_vocabulary(tmp_path / "v.safetensors") == table
