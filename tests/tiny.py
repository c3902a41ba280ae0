"""A tiny language model, its tokenizer and a corpus: made in a second, with structure enough for firings."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH, BLOCKS = 32, 3
WORDS = [
    first + second
    for second in ["ver", "nk", "ter", "ght", "sic", "nce", "use", "tain", "oad", "rm", "den", "tle"]
    for first in ["ri", "ba", "wa", "li", "mu", "da", "ho", "moun", "ro", "sto", "gar", "cas"]
]


def sentences(n_documents: int, seed: int = 0, n_words: tuple[int, int] = (30, 90)) -> list[str]:
    """Documents of words whose frequencies fall like Zipf's law."""
    generator = random.Random(seed)
    weights = [1 / (i + 5) for i in range(len(WORDS))]
    return [
        " ".join(generator.choices(WORDS, weights, k=generator.randint(*n_words))).capitalize() + "."
        for _ in range(n_documents)
    ]


def write_corpus(path: Path, n_documents: int = 300, seed: int = 0) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(n_documents, seed)))
    return path


def write_model(directory: Path, seed: int = 0) -> Path:
    """A random Llama with a byte-level BPE tokenizer, saved as transformers does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(200, seed=1), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.save_pretrained(directory)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory
