"""What a cache tells of all its latents, and which of them are to be explained.

survey:  cache → grid, document split, statistics → rare latents, selection
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from outcrop.config import ExamplesConfig, SelectConfig
from outcrop.errors import TextError
from outcrop.latents.cache import LatentCache
from outcrop.latents.select import Selection, is_everywhere, is_rare, select_latents
from outcrop.latents.split import score_documents
from outcrop.latents.statistics import LatentStatistics, latent_statistics
from outcrop.latents.windows import Grid, build_grid
from outcrop.progress import Progress, silent
from outcrop.results import CoderRow, LatentRow
from outcrop.types import LatentId, Vocabulary


@dataclass(frozen=True)
class Survey:
    """One coder's cache, seen as a whole."""

    cache: LatentCache
    vocabulary: Vocabulary
    grid: Grid
    is_score: Bool[ndarray, "documents"]
    statistics: LatentStatistics
    rare: Bool[ndarray, "latents"]
    selection: Selection


def survey(
    cache: LatentCache,
    vocabulary: Vocabulary,
    select: SelectConfig,
    examples: ExamplesConfig,
    *,
    window_tokens: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> Survey:
    """Lay the grid, split the documents, count every latent, and choose."""
    grid = build_grid(cache.corpus, cache.eligible, window_tokens, vocabulary)
    if not grid.n_windows:
        raise TextError(_no_window(cache, window_tokens))
    is_score = score_documents(cache.corpus.n_documents, seed)
    statistics = latent_statistics(cache, grid, is_score, progress)
    rare = is_rare(statistics, examples)
    n_score = int(is_score[grid.document].sum())
    everywhere = is_everywhere(statistics, grid.n_windows - n_score, n_score, examples)
    selection = select_latents(statistics, rare | everywhere, *layers_and_prefixes(cache), select, seed)
    return Survey(cache, vocabulary, grid, is_score, statistics, rare, selection)


def layers_and_prefixes(cache: LatentCache) -> tuple[Int64[ndarray, "latents"], Int64[ndarray, "latents"]]:
    """Each latent's layer and, within it, its matryoshka prefix."""
    layer, within = np.divmod(np.arange(cache.n_latents), cache.latents_per_layer)
    return layer, np.searchsorted(cache.placed.coder.architecture.matryoshka, within, side="right")


def _no_window(cache: LatentCache, window_tokens: int) -> str:
    longest = int(np.bincount(cache.corpus.document_of[cache.eligible], minlength=1).max())
    return (
        f"no document of the cache holds a window of {window_tokens} eligible tokens, the longest has {longest}; "
        "lower --cache.window-tokens, raise --text.max-document-tokens, or give longer documents"
    )


def coder_row(one: Survey) -> CoderRow:
    """The coder's line in the results database."""
    return CoderRow(
        coder=one.cache.key,
        n_layers=one.cache.n_layers,
        latents_per_layer=one.cache.latents_per_layer,
        window_tokens=one.grid.positions.shape[1],
        n_tokens=one.grid.n_eligible,
        n_excluded_tokens=len(one.cache.corpus.tokens) - one.grid.n_eligible,
        n_off_grid_tokens=one.grid.n_off_grid,
        n_windows=one.grid.n_windows,
        n_documents=one.cache.corpus.n_documents,
    )


def latent_rows(one: Survey) -> Iterator[LatentRow]:
    """The line of every latent in the results database, dead and rare ones included."""
    chosen = zip(one.selection.latents.tolist(), one.selection.probability.tolist(), strict=True)
    probability = dict(chosen)
    statistics = one.statistics
    layer, prefix = layers_and_prefixes(one.cache)
    for index in range(one.cache.n_latents):
        yield LatentRow(
            latent=LatentId(one.cache.key, index),
            layer=int(layer[index]),
            prefix=int(prefix[index]),
            n_fired=int(statistics.n_fired[index]),
            n_windows=int(statistics.n_windows[index]),
            firing_rate=float(statistics.firing_rate[index]),
            context_rate=float(statistics.context_rate[index]),
            mean_activation=_number(statistics.mean_activation[index]),
            max_activation=_number(statistics.max_activation[index]),
            context_dependence=_number(statistics.context_dependence[index]),
            context_dependence_coverage=_number(statistics.context_dependence_coverage[index]),
            dense=bool(statistics.dense[index]),
            positional=bool(statistics.positional[index]),
            pure_token=bool(statistics.triggers.pure[index]),
            rare=bool(one.rare[index]),
            selection_probability=probability.get(index),
            trigger=_trigger(one, index),
        )


def _trigger(one: Survey, latent: int) -> str | None:
    first = one.statistics.triggers.first(latent)
    return None if first is None else one.vocabulary.text([first])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
