"""The statistics of every latent of a coder as one table, for reading, sorting and Parquet."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from outcrop.config import NeighbourMeasure, Statistic
from outcrop.latents.neighbours import Neighbours
from outcrop.latents.outputs import Outputs
from outcrop.latents.survey import Survey
from outcrop.types import Vocabulary


def statistics_table(
    one: Survey,
    neighbours: dict[NeighbourMeasure, Neighbours],
    outputs: Outputs | None,
) -> pa.Table:
    """One row per latent, dead and rare ones included.

    `triggers`, `raises` and `lowers` are lists of tokens as text, with `…_share`, `…_probability` and `…_logit` beside
    them; `histogram` and `place_rate` are those of `LatentStatistics`; each measure of neighbours has a list of latents
    and one of their similarities. `raises` and `lowers` are there for coders on the residual stream.
    """
    statistics, n = one.statistics, one.cache.n_latents
    triggers = statistics.triggers
    derived = {
        "latent": np.arange(n),
        "layer": np.arange(n) // one.cache.latents_per_layer,
        "pure_token": triggers.pure,
        "rare": one.rare,
        "selected": np.isin(np.arange(n), one.selection.latents),
        "triggers_cover": triggers.cover,
    }
    columns = {
        "coder": pa.array([str(one.cache.key)] * n).dictionary_encode(),
        **{
            name: _column(derived[name] if name in derived else getattr(statistics, name))
            for name in get_args(Statistic)
        },
        "triggers": _lists(triggers.indptr, _texts(triggers.token, one.vocabulary)),
        "triggers_share": _lists(triggers.indptr, pa.array(triggers.share)),
        "triggers_probability": _lists(triggers.indptr, pa.array(triggers.probability)),
        "histogram": _rows(statistics.histogram),
        "place_rate": _rows(statistics.place_rate),
    }
    for measure, found in neighbours.items():
        there = found.latent >= 0
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        columns[f"{measure}_neighbours"] = _lists(indptr, pa.array(found.latent[there]))
        columns[f"{measure}_similarity"] = _lists(indptr, pa.array(found.similarity[there]))
    if outputs:
        for name, tokens, logits in (
            ("raises", outputs.raised, outputs.raised_logit),
            ("lowers", outputs.lowered, outputs.lowered_logit),
        ):
            indptr = np.arange(n + 1) * tokens.shape[1]
            columns[name] = _lists(indptr, _texts(tokens.ravel(), one.vocabulary))
            columns[f"{name}_logit"] = _rows(logits)
    return pa.table(columns)


def _column(values: ndarray) -> pa.Array:
    """What was never measured is missing, not NaN."""
    return pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)


def _rows(values: Int[ndarray, "latents n"] | Float[ndarray, "latents n"]) -> pa.Array:
    indptr = np.arange(len(values) + 1) * values.shape[1]
    return _lists(indptr, _column(values.ravel()))


def _lists(indptr: Int[ndarray, "latents_plus_1"], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(indptr.astype(np.int32)), values)


def _texts(tokens: Int[ndarray, "n"], vocabulary: Vocabulary) -> pa.Array:
    """By a dictionary, since few types are anyone's trigger many times."""
    types, which = np.unique(tokens, return_inverse=True)
    return pa.array([vocabulary.text([token]) for token in types.tolist()], pa.string()).take(pa.array(which))
