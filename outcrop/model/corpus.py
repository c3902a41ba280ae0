"""A corpus of tokens: contexts behind one another, and its place on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from outcrop.errors import CorruptError
from outcrop.run import write_atomically
from outcrop.types import Vocabulary


@dataclass(frozen=True)
class Corpus:
    """Contexts behind one another: context c is tokens[context_start[c] : context_start[c + 1]]."""

    tokens: Int32[ndarray, "n"]
    context_start: Int64[ndarray, "c_plus_1"]
    context_document: Int32[ndarray, "c"]
    eligible: Bool[ndarray, "n"]

    @property
    def n_contexts(self) -> int:
        return len(self.context_document)

    @property
    def n_documents(self) -> int:
        return int(self.context_document[-1]) + 1

    def continues(self, other: Corpus) -> bool:
        """Whether it begins with all of another corpus."""
        n, c = len(other.tokens), other.n_contexts
        return (
            np.array_equal(self.tokens[:n], other.tokens)
            and np.array_equal(self.context_start[: c + 1], other.context_start)
            and np.array_equal(self.context_document[:c], other.context_document)
            and np.array_equal(self.eligible[:n], other.eligible)
        )

    @property
    def n_eligible(self) -> int:
        return int(self.eligible.sum())

    @cached_property
    def context_of(self) -> Int32[ndarray, "n"]:
        """The context of every position."""
        return np.repeat(np.arange(self.n_contexts, dtype=np.int32), np.diff(self.context_start))

    @cached_property
    def document_of(self) -> Int32[ndarray, "n"]:
        """The document of every position."""
        return self.context_document[self.context_of]

    @cached_property
    def offset_of(self) -> Int64[ndarray, "n"]:
        """Every position counted from the start of its context."""
        return np.arange(len(self.tokens)) - self.context_start[self.context_of]

    @cached_property
    def hash(self) -> str:
        digest = hashlib.sha256()
        for array in (self.tokens, self.context_start, self.context_document, self.eligible):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def save_corpus(corpus: Corpus, path: Path) -> None:
    names = ("tokens", "context_start", "context_document", "eligible")
    write_atomically(path, save({name: getattr(corpus, name) for name in names}))


def load_corpus(path: Path) -> Corpus:
    return Corpus(**_load(path))


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    lengths = [len(piece) for piece in vocabulary.pieces]
    tensors = {
        "start": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "bytes": np.frombuffer(b"".join(vocabulary.pieces), dtype=np.uint8),
    }
    write_atomically(path, save(tensors))


def load_vocabulary(path: Path) -> Vocabulary:
    tensors = _load(path)
    data, start = tensors["bytes"].tobytes(), tensors["start"].tolist()
    return Vocabulary(tuple(data[a:b] for a, b in pairwise(start)))


def _load(path: Path) -> dict[str, ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CorruptError(f"{path} cannot be read ({error}); remove the run directory and start again") from error
