"""Documents → contexts of tokens.

Documents are dealt to the parts of a run (held-out, cache, train) in the order in which they come,
so that no document serves two of them (`text.shuffled` shuffles them before); each is cut to
`max_document_tokens` and into contexts of `context_tokens`. Position 0 of a context (an attention
sink) and special tokens are *excluded*: they reach no coder and no statistic. All other tokens are
*eligible*.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from numpy import ndarray

from outcrop.config import TextConfig
from outcrop.errors import TextError
from outcrop.model.corpus import Corpus
from outcrop.types import Vocabulary

_TOKENIZE_DOCUMENTS = 256  # handed to the tokenizer at once


def deal(documents: Iterable[str], tokenizer: Any, config: TextConfig, wanted: Mapping[str, int]) -> dict[str, Corpus]:
    """One corpus per part, filled in the given order until it has its eligible tokens.

    Exact duplicates of a document are left out. Raises TextError when the text ends too early.
    """
    pieces = _tokenized(documents, tokenizer, config)
    builders = {part: _Builder(tokenizer, config) for part in wanted}
    for part, builder in builders.items():
        while builder.n_eligible < wanted[part]:
            document = next(pieces, None)
            if document is None:
                raise TextError(_too_short(config.path, wanted, builders))
            builder.add(document)
    return {part: builder.corpus() for part, builder in builders.items()}


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The bytes of every token id."""
    size = len(tokenizer)
    names = tokenizer.convert_ids_to_tokens(list(range(size)))
    to_byte = _byte_level(tokenizer)
    if to_byte:
        return Vocabulary(tuple(_bytes_of(name, to_byte) for name in names))
    # Other tokenizers drop a leading space when they decode one token alone, so an anchor stands before it.
    anchor = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("a")[-1])
    prefix = tokenizer.decode([anchor])
    texts = tokenizer.batch_decode([[anchor, token] for token in range(size)])
    return Vocabulary(tuple(text.removeprefix(prefix).encode() for text in texts))


class _Builder:
    """Collects the documents of one part."""

    def __init__(self, tokenizer: Any, config: TextConfig) -> None:
        self._special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)
        self._bos = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
        self._length = config.context_tokens - len(self._bos)
        self._contexts: list[Int32[ndarray, "t"]] = []
        self._eligible: list[Bool[ndarray, "t"]] = []
        self._documents: list[int] = []
        self._n_documents = 0
        self.n_eligible = 0

    def add(self, document: list[int]) -> None:
        for start in range(0, len(document), self._length):
            tokens = np.array([*self._bos, *document[start : start + self._length]], dtype=np.int32)
            eligible = ~np.isin(tokens, self._special)
            eligible[0] = False
            self._contexts.append(tokens)
            self._eligible.append(eligible)
            self._documents.append(self._n_documents)
            self.n_eligible += int(eligible.sum())
        self._n_documents += 1

    def corpus(self) -> Corpus:
        lengths = [len(context) for context in self._contexts]
        return Corpus(
            tokens=np.concatenate(self._contexts),
            context_start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            context_document=np.array(self._documents, dtype=np.int32),
            eligible=np.concatenate(self._eligible),
        )


def _tokenized(documents: Iterable[str], tokenizer: Any, config: TextConfig) -> Iterator[list[int]]:
    """Token ids of each document that was not seen before, cut to its longest share."""
    seen: set[bytes] = set()
    documents = iter(documents)
    while group := list(islice(documents, _TOKENIZE_DOCUMENTS)):
        # A token has one character at least (but for rare byte tokens): no need to tokenize a whole book.
        texts = [text[: 32 * config.max_document_tokens] for text in group]
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            ids = ids[: config.max_document_tokens]
            key = hashlib.sha256(np.array(ids, dtype=np.int32).tobytes()).digest()
            if len(ids) >= 2 and key not in seen:
                seen.add(key)
                yield ids


def _too_short(path: str, wanted: Mapping[str, int], builders: Mapping[str, _Builder]) -> str:
    have = sum(builder.n_eligible for builder in builders.values())
    parts = ", ".join(f"{part} {tokens:,}" for part, tokens in wanted.items())
    return (
        f"{path} holds {have:,} eligible tokens (after the cap per document and without duplicates), but "
        f"{sum(wanted.values()):,} are wanted ({parts}). Give more text, raise --text.max-document-tokens, "
        "or lower --train.tokens or --cache.tokens."
    )


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _byte_level(tokenizer: Any) -> dict[str, int]:
    """The byte behind each character of a byte-level BPE's token names; empty for other tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or "ByteLevel" not in str(json.loads(backend.to_str()).get("decoder")):
        return {}
    # GPT-2's table: printable characters stand for themselves, the other bytes for characters from 256 on.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _bytes_of(name: str | None, to_byte: Mapping[str, int]) -> bytes:
    if name is None:
        return b""
    if all(character in to_byte for character in name):
        return bytes(to_byte[character] for character in name)
    return name.encode()  # an added token, such as <|endoftext|>
