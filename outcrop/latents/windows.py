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
from jaxtyping import Bool, Float32, Int, Int32, Int64
from numpy import ndarray
from scipy.sparse import coo_array

from outcrop.errors import ConfigError
from outcrop.latents.cache import Firings
from outcrop.model.corpus import Corpus
from outcrop.types import Vocabulary, Window


@dataclass(frozen=True)
class Grid:
    """One row per window: the positions of its w tokens, and its document."""

    corpus: Corpus
    positions: Int64[ndarray, "windows w"]
    eligible_positions: Int64[ndarray, "eligible"]  # of the corpus, on the grid or off it

    @property
    def n_eligible(self) -> int:
        return len(self.eligible_positions)

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
    def _eligible_document(self) -> Int32[ndarray, "eligible"]:
        return self.corpus.document_of[self.eligible_positions]

    @cached_property
    def row_of(self) -> Int32[ndarray, "n"]:
        """The row of every position of the corpus; -1 off the grid."""
        rows = np.full(len(self.corpus.tokens), -1, dtype=np.int32)
        rows[self.positions] = np.arange(self.n_windows, dtype=np.int32)[:, None]
        return rows

    def places_of(self, token: int) -> Int[ndarray, "places"]:
        """Where a token type stands in the windows, laid behind one another; ascending."""
        starts, places = self._inverted
        return places[starts[token] : starts[token + 1]] if token + 1 < len(starts) else places[:0]

    @cached_property
    def _inverted(self) -> tuple[Int[ndarray, "types_plus_1"], Int[ndarray, "places"]]:
        """The places of every token type, behind one another, and where each type's begin."""
        tokens = self.tokens.ravel()
        by_type = coo_array((np.ones(len(tokens), dtype=bool), (tokens, np.arange(len(tokens))))).tocsr()
        return by_type.indptr, by_type.indices

    def rows_of(self, positions: Int64[ndarray, "n"]) -> Int32[ndarray, "on_grid"]:
        """The rows that hold some positions, one for each on the grid."""
        rows = self.row_of[positions]
        return rows[rows >= 0]

    def peaks(
        self, firings: Firings
    ) -> tuple[Int64[ndarray, "fired"], Float32[ndarray, "fired"], Int64[ndarray, "fired"]]:
        """The rows in which a latent fires, ascending, its largest activation in each, and where in the corpus that
        stands first."""
        rows = self.row_of[firings.position]
        on_grid = rows >= 0
        rows, value, position = rows[on_grid].astype(np.int64), firings.value[on_grid], firings.position[on_grid]
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        if not len(starts):
            return rows, value, position
        peak = np.maximum.reduceat(value, starts)
        at_peak = np.flatnonzero(value == np.repeat(peak, np.diff(starts, append=len(rows))))
        first = at_peak[np.diff(rows[at_peak], prepend=-1) > 0]
        return rows[starts], peak, position[first]

    def windows(self, rows: Int64[ndarray, "n"], firings: Firings) -> list[Window]:
        """Rows with the activations of one latent."""
        return windows_at(self.corpus, self.positions[rows], firings)

    def centred(self, peaks: Int64[ndarray, "n"], offset: int, firings: Firings) -> list[Window]:
        """Windows of eligible tokens around positions of the corpus, each at `offset` in its own where the document
        allows; one that meets the document's edge is shorter, not shifted."""
        found = []
        for begin, end in zip(*self._around(peaks, offset), strict=True):
            found += windows_at(self.corpus, self.eligible_positions[None, begin:end], firings)
        return found

    def strongest_around(self, peaks: Int64[ndarray, "n"], offset: int, firings: Firings) -> Float32[ndarray, "n"]:
        """The largest activation in each of those windows."""
        begin, end = self._around(peaks, offset)
        first = np.searchsorted(firings.position, self.eligible_positions[begin])
        last = np.searchsorted(firings.position, self.eligible_positions[end - 1], side="right")
        padded = np.append(firings.value, np.float32(0))
        largest = np.maximum.reduceat(padded, np.column_stack([first, last]).ravel())[::2]
        return np.where(last > first, largest, np.float32(0))

    def silent_around(self, peaks: Int64[ndarray, "n"], offset: int, firings: Firings) -> Bool[ndarray, "n"]:
        """Which of those windows hold no firing at all."""
        begin, end = self._around(peaks, offset)
        first, last = self.eligible_positions[begin], self.eligible_positions[end - 1]
        n_before = np.searchsorted(firings.position, first)
        return np.searchsorted(firings.position, last, side="right") == n_before

    def _around(self, peaks: Int64[ndarray, "n"], offset: int) -> tuple[Int64[ndarray, "n"], Int64[ndarray, "n"]]:
        """Where those windows begin and end among the eligible positions."""
        w = self.positions.shape[1]
        if not 0 <= offset < w:
            raise ConfigError(f"a peak at offset {offset} lies outside a window of {w} tokens")
        document = self.corpus.document_of[peaks]
        start, stop = (np.searchsorted(self._eligible_document, document, side=side) for side in ("left", "right"))
        begin = np.searchsorted(self.eligible_positions, peaks) - offset
        return np.maximum(begin, start), np.minimum(begin + w, stop)


def windows_at(corpus: Corpus, positions: Int64[ndarray, "n w"], firings: Firings) -> list[Window]:
    """The tokens at some positions, each with the activation of one latent there."""
    found = np.minimum(np.searchsorted(firings.position, positions), max(0, len(firings.position) - 1))
    activations = np.zeros(positions.shape, dtype=np.float32)
    if len(firings.position):
        hit = firings.position[found] == positions
        activations[hit] = firings.value[found[hit]]
    tokens, first = corpus.tokens[positions], positions[:, 0]
    places = corpus.context_of[first], corpus.offset_of[first], corpus.document_of[first]
    return [Window(*window) for window in zip(tokens, activations, *(part.tolist() for part in places), strict=True)]


def build_grid(corpus: Corpus, eligible: Bool[ndarray, "n"], window_tokens: int, vocabulary: Vocabulary) -> Grid:
    """The grid over the eligible tokens of a corpus."""
    positions = np.flatnonzero(eligible)
    document = corpus.document_of[positions]
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    rank = np.arange(len(positions)) - np.repeat(starts, np.diff(starts, append=len(positions)))
    length = np.repeat(np.diff(starts, append=len(positions)), np.diff(starts, append=len(positions)))
    on_grid = rank < length - length % window_tokens
    rows = positions[on_grid].reshape(-1, window_tokens)
    return Grid(corpus, rows[_first_of_its_kind(corpus.tokens[rows], vocabulary)], positions)


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
