"""From the cache to the windows that explainers and judges see of each latent.

Explainers see windows of one half of the documents, judges of the other. Activating windows are drawn from Q
quantiles of their peak, equally many from each (explainers may be shown others, see `sampling`); non-activating ones
from each stratum, for judges uniformly, for explainers in turn from all that made windows members of it (triggers,
neighbours, activating windows). Where an explainer's windows are centred on their peaks, its same-token ones are
position-matched: the trigger stands where the peaks stand. Nothing is drawn twice. What a stratum cannot supply is
noted, and no other stands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from scipy.sparse import csr_array

from outcrop.config import ExamplesConfig
from outcrop.errors import ConfigError
from outcrop.latents.nearest import WindowIndex
from outcrop.latents.negatives import StratumRows, neighbour_rows, partition, same_token_rows
from outcrop.latents.neighbours import Neighbours, find_neighbours
from outcrop.latents.sampling import in_turn, quantiles, sample
from outcrop.latents.semantic import semantic_rows
from outcrop.latents.split import in_split
from outcrop.latents.survey import Survey
from outcrop.latents.triggers import find_triggers
from outcrop.progress import Progress, silent
from outcrop.types import Example, LatentExamples, LatentId, Split, Stratum, StratumShare, TokenEvidence

_ANCHORS = 32  # activating windows whose nearest are semantic


def build_examples(
    one: Survey,
    config: ExamplesConfig,
    *,
    index: WindowIndex | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[LatentExamples]:
    """The examples of the latents that a survey selected. ConfigError if semantic ones are wanted without an index."""
    if config.wants("semantic") and index is None:
        raise ConfigError("semantic windows are wanted, but no index is given; build_index makes one of the grid")
    latents = one.selection.latents
    neighbours = None
    if config.wants("neighbour"):
        neighbours = find_neighbours(one.cache, latents, config.neighbour_measure, config.n_neighbours)
    with progress("examples", len(latents), "latents") as advance:
        for latent in latents.tolist():
            yield _Drawer(one, latent, config, neighbours, index, seed).examples()
            advance(1)


def token_evidence(one: Survey) -> Iterator[TokenEvidence]:
    """What the explain documents say of the selected latents, token type by token type."""
    corpus = one.cache.corpus
    explains = ~one.is_score[corpus.document_of]
    occurrences = np.bincount(corpus.tokens[one.cache.eligible & explains])
    rows = np.flatnonzero(~one.is_score[one.grid.document])
    windows = one.grid.tokens[rows]
    for latent in one.selection.latents.tolist():
        firings = one.cache[latent]
        position = firings.position[explains[firings.position]]
        fires = np.zeros(one.grid.n_windows, dtype=bool)
        fires[one.grid.rows_of(firings.position)] = True
        fired = np.bincount(corpus.tokens[position], minlength=len(occurrences))
        found, latent_id = find_triggers(csr_array(fired[None]), occurrences), LatentId(one.cache.key, latent)
        pure = bool(found.pure[0])
        yield TokenEvidence(latent_id, fired, occurrences, windows, fires[rows], found.token, pure)


class _Drawer:
    """Draws the windows of one latent and notes what a stratum could not supply."""

    def __init__(
        self,
        one: Survey,
        latent: int,
        config: ExamplesConfig,
        neighbours: Neighbours | None,
        index: WindowIndex | None,
        seed: int,
    ) -> None:
        self._one, self._grid, self._latent, self._config = one, one.grid, latent, config
        self._neighbours, self._index = neighbours, index
        self._generators = {
            split: np.random.default_rng([seed, 2, latent, i]) for i, split in enumerate(get_args(Split))
        }
        self._firings = one.cache[latent]
        rows, peaks, at = self._grid.peaks(self._firings)
        order = np.argsort(peaks, kind="stable")
        self._rows, self._peaks, self._peak_at = rows[order], peaks[order], at[order]  # the weakest first
        self._is_score = one.is_score[self._grid.document]
        self._missing: dict[Stratum, list[str]] = {}
        self._strata = partition(self._fires(), list(self._candidates()))

    def examples(self) -> LatentExamples:
        explain = self._draw("explain", 0)
        score = self._draw("score", len(explain))
        n_fired, n_windows = len(self._rows), self._grid.n_windows
        return LatentExamples(
            latent=LatentId(self._one.cache.key, self._latent),
            firing_rate=len(self._firings.position) / self._grid.n_eligible,
            context_rate=n_fired / n_windows,
            explain=tuple(explain),
            score=tuple(score),
            strata=tuple(self._shares(n_windows - n_fired)),
        )

    def _fires(self) -> Bool[ndarray, "windows"]:
        fires = np.zeros(self._grid.n_windows, dtype=bool)
        fires[self._rows] = True
        return fires

    def _shares(self, n_silent: int) -> Iterator[StratumShare]:
        """Of every stratum that is there or was to be."""
        n_rows = {stratum.stratum: len(stratum.rows) for stratum in self._strata}
        for stratum in get_args(Stratum):
            missing = self._missing.get(stratum)
            n = n_rows.get(stratum, 0)
            if n or missing:
                yield StratumShare(
                    stratum, n / n_silent if n_silent else 0.0, n, "; ".join(missing) if missing else None
                )

    def _candidates(self) -> Iterator[StratumRows]:
        """The strata that are to be there, in order of precedence; why one cannot be is noted."""
        triggers, latent = self._one.statistics.triggers, self._latent
        if self._config.wants("same_token"):
            if triggers.diffuse[latent]:
                self._note("same_token", "diffuse: the tokens that set it off cover less than half of its firings")
            elif triggers.pure[latent]:
                self._note("same_token", "pure token latent: it fires on every occurrence of its tokens")
            else:
                yield same_token_rows(self._grid, triggers.token[triggers.of(latent)])
        if self._neighbours is not None:
            yield neighbour_rows(self._one.cache, self._grid, self._neighbours, latent)
        if self._index is not None:
            spread = np.linspace(0, len(self._rows) - 1, min(_ANCHORS, len(self._rows))).round().astype(int)
            yield semantic_rows(self._index, self._rows[spread], self._fires())

    def _note(self, stratum: Stratum, reason: str) -> None:
        self._missing.setdefault(stratum, []).append(reason)

    def _draw(self, split: Split, first: int) -> list[Example]:
        """Those of a split, numbered from `first` on."""
        examples = self._activating(split, first)
        for stratum, n in self._config.wanted(split).items():
            if self._config.wants(stratum):
                examples += self._non_activating(split, stratum, n, first + len(examples))
        return examples

    def _activating(self, split: Split, first: int) -> list[Example]:
        config = self._config
        here = np.flatnonzero(in_split(self._is_score[self._rows], split))
        if self._centred(split):
            here = here[self._alone(here)]
        n, sampler = (
            (config.explain_activating, config.explain_sampler)
            if split == "explain"
            else (config.score_activating, "quantiles")
        )
        drawn = sample(sampler, self._peaks[here], n, config.n_quantiles, self._generators[split])
        quantile = quantiles(len(here), config.n_quantiles)[drawn]
        rows = self._rows[here[drawn]]
        if self._centred(split):
            windows = self._grid.centred(self._peak_at[here[drawn]], config.peak_offset, self._firings)
        else:
            windows = self._grid.windows(rows, self._firings)
        return [
            Example(first + i, row, split, window, quantile=q)
            for i, (row, window, q) in enumerate(zip(rows.tolist(), windows, quantile.tolist(), strict=True))
        ]

    def _centred(self, split: Split) -> bool:
        return split == "explain" and self._config.explain_windows == "centred"

    def _alone(self, which: Int64[ndarray, "n"]) -> Bool[ndarray, "n"]:
        """Whose centred window holds no stronger activation than its own peak: that would be another row's."""
        around = self._grid.strongest_around(self._peak_at[which], self._config.peak_offset, self._firings)
        return around <= self._peaks[which]

    def _first(self, tokens: Int64[ndarray, "n"], rows: Int64[ndarray, "n"]) -> Int64[ndarray, "n"]:
        """Where in the corpus each token first stands in its row."""
        return self._grid.positions[rows, (self._grid.tokens[rows] == tokens[:, None]).argmax(axis=1)]

    def _non_activating(self, split: Split, name: Stratum, wanted: int, first: int) -> list[Example]:
        stratum = next((one for one in self._strata if one.stratum == name), None)
        if stratum is None:
            if wanted and name not in self._missing:
                self._note(name, "there is no such window")
            return []
        here = np.flatnonzero(in_split(self._is_score[stratum.rows], split))
        offset = self._config.peak_offset
        triggers = None
        if stratum.source is not None and name == "same_token" and self._centred(split):
            triggers = self._first(stratum.source, stratum.rows)
            here = here[self._grid.silent_around(triggers[here], offset, self._firings)]
        if len(here) < wanted:
            self._note(name, f"{split}: {wanted} wanted, {len(here)} windows there")
        if split == "explain" and stratum.source is not None:
            drawn = here[in_turn(stratum.source[here], wanted, self._generators[split])]
        else:
            drawn = self._generators[split].choice(here, size=min(wanted, len(here)), replace=False)
        rows = stratum.rows[drawn]
        if triggers is None:
            windows = self._grid.windows(rows, self._firings)
        else:
            windows = self._grid.centred(triggers[drawn], offset, self._firings)
        sources, distances = (
            [None] * len(drawn) if part is None else part[drawn].tolist() for part in (stratum.source, stratum.distance)
        )
        return [
            Example(first + i, row, split, window, stratum=name, source=source, distance=distance)
            for i, (row, window, source, distance) in enumerate(
                zip(rows.tolist(), windows, sources, distances, strict=True)
            )
        ]
