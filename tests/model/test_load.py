from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from outcrop.config import ModelConfig
from outcrop.errors import ModelError
from outcrop.model.load import LanguageModel, choose_dtype, load_model
from tests.tiny import write_model


def test_the_identity_tells_two_models_of_one_name_apart(tmp_path: Path, model: LanguageModel) -> None:
    first, second = (
        load_model(ModelConfig(str(write_model(tmp_path / str(seed) / "m", seed)), dtype="float32")) for seed in (0, 1)
    )
    assert first.identity != second.identity
    assert first.identity.split("-")[1] == model.identity.split("-")[-1]  # the same weights as the shared tiny model


def test_a_dot_in_a_models_name_cuts_nothing_off_its_identity(tmp_path: Path) -> None:
    name = write_model(tmp_path / "Llama-3.1-8B")
    assert load_model(ModelConfig(str(name), dtype="float32")).identity.startswith("Llama-3.1-8B-")


def test_bfloat16_that_a_gpu_only_emulates_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_dtype("auto", torch.device("cuda")) == torch.float32


def test_an_encoder_is_no_causal_language_model_whose_head_is_drawn_at_random(tmp_path: Path) -> None:
    tokenizer = load_model(ModelConfig(str(write_model(tmp_path / "lm")), dtype="float32")).tokenizer
    tokenizer.save_pretrained(tmp_path / "bert")
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"no causal language model: it has no weights for cls\.predictions"):
        load_model(ModelConfig(str(tmp_path / "bert")))


def test_a_model_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no directory") as error:
        load_model(ModelConfig(str(tmp_path / "none")))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no GGUF file"):
        load_model(ModelConfig(str(tmp_path / "none.gguf")))
