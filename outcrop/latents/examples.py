"""From the cache to the windows that explainers and judges see of each latent.

Explainers see windows of one half of the documents, judges of the other. Activating windows
are drawn from Q quantiles of their peak, equally many from each; non-activating ones uniformly
from each stratum. Nothing is drawn twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from outcrop.config import ExamplesConfig
from outcrop.latents.cache import Firings
from outcrop.latents.negatives import StratumRows, strata, trigger_tokens
from outcrop.latents.split import in_split
from outcrop.latents.statistics import token_counts
from outcrop.latents.survey import Survey
from outcrop.progress import Progress, silent
from outcrop.types import Example, LatentExamples, LatentId, Split, Stratum, StratumShare, TokenEvidence


def build_examples(
    one: Survey, config: ExamplesConfig, *, seed: int = 0, progress: Progress = silent
) -> Iterator[LatentExamples]:
    """The examples of the latents that a survey selected."""
    occurrences = token_counts(one.cache)
    with progress("examples", len(one.selection.latents), "latents") as advance:
        for latent in one.selection.latents.tolist():
            yield _examples_of(one, latent, occurrences, config, seed)
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
        fires[one.grid.peaks(firings)[0]] = True
        fired = np.bincount(corpus.tokens[position], minlength=len(occurrences))
        yield TokenEvidence(LatentId(one.cache.key, latent), fired, occurrences, windows, fires[rows])


def _examples_of(
    one: Survey, latent: int, occurrences: Int64[ndarray, "types"], config: ExamplesConfig, seed: int
) -> LatentExamples:
    grid, firings = one.grid, one.cache[latent]
    rows, peaks = grid.peaks(firings)
    fires = np.zeros(grid.n_windows, dtype=bool)
    fires[rows] = True
    # A stratum that is switched off falls through to the next.
    triggers = trigger_tokens(firings, one.cache, occurrences) if config.score_same_token else np.empty(0, np.int64)
    partition = strata(grid, fires, triggers)
    drawer = _Drawer(one, firings, rows, peaks, partition, np.random.default_rng([seed, 2, latent]))
    explain = drawer.draw(
        "explain",
        config.explain_activating,
        config.n_quantiles,
        {"same_token": config.explain_same_token, "random": config.explain_random},
    )
    score = drawer.draw(
        "score",
        config.score_activating,
        config.n_quantiles,
        {"same_token": config.score_same_token, "random": config.score_random},
    )
    return LatentExamples(
        latent=LatentId(one.cache.key, latent),
        firing_rate=len(firings.position) / grid.n_eligible,
        context_rate=len(rows) / grid.n_windows,
        explain=tuple(explain),
        score=tuple(replace(example, index=len(explain) + i) for i, example in enumerate(score)),
        strata=tuple(_share(s, grid.n_windows - len(rows), drawer.shortfalls) for s in partition),
    )


def _share(stratum: StratumRows, n_non_activating: int, shortfalls: Mapping[Stratum, str]) -> StratumShare:
    n = len(stratum.rows)
    share = n / n_non_activating if n_non_activating else 0.0
    return StratumShare(stratum.stratum, share, n, shortfalls.get(stratum.stratum))


class _Drawer:
    """Draws the windows of one latent and notes what a stratum could not supply."""

    def __init__(
        self,
        one: Survey,
        firings: Firings,
        rows: Int64[ndarray, "fired"],
        peaks: ndarray,
        partition: Sequence[StratumRows],
        generator: np.random.Generator,
    ) -> None:
        self._grid, self._firings, self._generator = one.grid, firings, generator
        self._is_score = one.is_score[one.grid.document]
        self._rows, self._peaks, self._partition = rows, peaks, partition
        self.shortfalls: dict[Stratum, str] = {}

    def draw(self, split: Split, n_activating: int, n_quantiles: int, wanted: dict[Stratum, int]) -> list[Example]:
        activating = self._activating(split, n_activating, n_quantiles)
        return activating + self._non_activating(split, wanted, len(activating))

    def _activating(self, split: Split, n: int, n_quantiles: int) -> list[Example]:
        here = in_split(self._is_score[self._rows], split)
        by_peak = self._rows[here][np.argsort(self._peaks[here], kind="stable")]
        drawn = [
            (int(row), quantile)
            for quantile, part in enumerate(np.array_split(by_peak, n_quantiles), start=1)
            for row in self._generator.choice(part, size=n // n_quantiles, replace=False)
        ]
        return [
            Example(index, row, split, self._grid.window(row, self._firings), quantile=quantile)
            for index, (row, quantile) in enumerate(drawn)
        ]

    def _non_activating(self, split: Split, wanted: dict[Stratum, int], index: int) -> list[Example]:
        examples: list[Example] = []
        for stratum in self._partition:
            here = np.flatnonzero(in_split(self._is_score[stratum.rows], split))
            n = min(wanted[stratum.stratum], len(here))
            if n < wanted[stratum.stratum]:
                note = f"{split}: {wanted[stratum.stratum]} wanted, {len(here)} windows there"
                earlier = self.shortfalls.get(stratum.stratum)
                self.shortfalls[stratum.stratum] = f"{earlier}; {note}" if earlier else note
            for chosen in self._generator.choice(here, size=n, replace=False):
                row = int(stratum.rows[chosen])
                trigger = None if stratum.source is None else int(stratum.source[chosen])
                window = self._grid.window(row, self._firings)
                examples.append(
                    Example(index + len(examples), row, split, window, stratum=stratum.stratum, source=trigger)
                )
        return examples
