"""The fixed grid of windows on which everything is counted and scored.

A document's eligible tokens are cut into consecutive, non-overlapping windows of w; what is
left at its end, shorter than w, is *off the grid*. A window that repeats an earlier one, but
for letter case, digits, spaces and punctuation, is a near duplicate and off the grid, too.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64
from numpy import ndarray

from outcrop.latents.cache import Firings
from outcrop.model.corpus import Corpus
from outcrop.types import Vocabulary, Window


@dataclass(frozen=True)
class Grid:
    """One row per window: the positions of its w tokens, and its document."""

    corpus: Corpus
    positions: Int64[ndarray, "windows w"]
    n_eligible: int  # tokens of the corpus, on the grid or off it

    @property
    def n_windows(self) -> int:
        return len(self.positions)

    @property
    def n_off_grid(self) -> int:
        return self.n_eligible - self.positions.size

    @cached_property
    def tokens(self) -> Int32[ndarray, "windows w"]:
        return self.corpus.tokens[self.positions]

    @cached_property
    def document(self) -> Int32[ndarray, "windows"]:
        return self.corpus.document_of[self.positions[:, 0]]

    @cached_property
    def row_of(self) -> Int32[ndarray, "n"]:
        """The row of every position of the corpus; -1 off the grid."""
        rows = np.full(len(self.corpus.tokens), -1, dtype=np.int32)
        rows[self.positions] = np.arange(self.n_windows, dtype=np.int32)[:, None]
        return rows

    def peaks(self, firings: Firings) -> tuple[Int64[ndarray, "fired"], Float32[ndarray, "fired"]]:
        """The rows in which a latent fires, ascending, and its largest activation in each."""
        rows = self.row_of[firings.position]
        on_grid = rows >= 0
        unique, inverse = np.unique(rows[on_grid], return_inverse=True)
        peak = np.zeros(len(unique), dtype=np.float32)
        np.maximum.at(peak, inverse, firings.value[on_grid])
        return unique.astype(np.int64), peak

    def window(self, row: int, firings: Firings) -> Window:
        """One row with the activations of one latent."""
        positions = self.positions[row]
        activations = np.zeros(len(positions), dtype=np.float32)
        found = np.searchsorted(firings.position, positions)
        inside = found < len(firings.position)
        hit = inside.copy()
        hit[inside] = firings.position[found[inside]] == positions[inside]
        activations[hit] = firings.value[found[hit]]
        first = int(positions[0])
        context = int(self.corpus.context_of[first])
        return Window(
            tokens=self.corpus.tokens[positions],
            activations=activations,
            context=context,
            offset=first - int(self.corpus.context_start[context]),
            document=int(self.document[row]),
        )


def build_grid(corpus: Corpus, eligible: Bool[ndarray, "n"], window_tokens: int, vocabulary: Vocabulary) -> Grid:
    """The grid over the eligible tokens of a corpus."""
    positions = np.flatnonzero(eligible)
    document = corpus.document_of[positions]
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    rank = np.arange(len(positions)) - np.repeat(starts, np.diff(starts, append=len(positions)))
    length = np.repeat(np.diff(starts, append=len(positions)), np.diff(starts, append=len(positions)))
    on_grid = rank < length - length % window_tokens
    rows = positions[on_grid].reshape(-1, window_tokens)
    return Grid(corpus, rows[_first_of_its_kind(corpus.tokens[rows], vocabulary)], len(positions))


def _first_of_its_kind(tokens: Int32[ndarray, "windows w"], vocabulary: Vocabulary) -> Int64[ndarray, "kept"]:
    """The rows that repeat no earlier row, in their order."""
    present, inverse = np.unique(tokens, return_inverse=True)
    forms: dict[str | bytes, int] = {}
    form = np.array([forms.setdefault(_plain(vocabulary.pieces[token]), len(forms)) for token in present.tolist()])
    rows = form[inverse].reshape(tokens.shape)
    _, first = np.unique(rows, axis=0, return_index=True)
    return np.sort(first)


def _plain(piece: bytes) -> str | bytes:
    """Letters without case; every digit alike; nothing else, but where there is nothing else."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return piece  # a part of a character is like nothing but itself
    kept = "".join("0" if c.isdigit() else c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())
    return kept or ("" if text.isascii() else text)
