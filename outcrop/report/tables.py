"""The tables that a report is computed from: everything per latent, so that a filter needs no judgement again.

    latents    one row per latent: its status, why it failed, and its statistics
    scores     one row per explanation with a text (`report.scores`)
    scorers    one row per scorer, arm, metric and subject (`report.scorers`)
    bands      one row per latent that was explained band by band (`report.bands`)

They are kept beside the report as Parquet, for this purpose and for everybody's own.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int
from numpy import ndarray

from outcrop.config import Where
from outcrop.errors import ConfigError
from outcrop.metrics.rates import Estimate
from outcrop.report.bands import band_table
from outcrop.report.calibrated import ARMS as CALIBRATED
from outcrop.report.calibrated import calibrated, calibration_summary
from outcrop.report.judged import ARMS, MEASURING, Judged
from outcrop.report.scorers import scorer_values
from outcrop.report.scores import Column, Scores, ranks_of, score
from outcrop.results import Results, records
from outcrop.run import write_parquet
from outcrop.schema import DETECTION, FUZZING, MISPLACED
from outcrop.types import CoderKey

VERSION = 7  # of the columns, and of what is in them

_ABOUT = "outcrop"  # key of the metadata

_LATENTS = """
SELECT l.*, g.status, g.stage, g.reason FROM latents l JOIN ledger g USING (coder, latent) ORDER BY coder, latent
"""
# First in the order of the primary key: SQLite would sort all judgements otherwise. Those that failed have an index.
_JUDGEMENTS = """
SELECT scorer, arm, '' AS kind, SUM(n) AS n FROM (
  SELECT scorer, arm, COUNT(*) - COUNT(failure) AS n FROM judgements GROUP BY coder, latent, scorer, arm
) GROUP BY 1, 2
UNION ALL SELECT scorer, arm, failure, COUNT(*) FROM judgements WHERE failure IS NOT NULL GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class Tables:
    """See the module."""

    coders: list[dict[str, Any]]  # rows of the table of that name
    judgements: list[tuple[str, str, str, int]]  # how many by scorer, arm and kind of failure (empty: none)
    latents: dict[str, ndarray]
    scores: Scores
    scorers: dict[str, ndarray]
    bands: dict[str, ndarray]
    calibration: list[dict[str, Any]]  # of every arm with probabilities (`report.calibrated`), over all latents

    @property
    def coder_names(self) -> list[str]:
        return [coder["coder"] for coder in self.coders]

    def where(self, where: Where) -> Tables:
        """Of these latents alone. ConfigError where there are none."""
        kept = _chosen(self.latents, where)
        if not kept.any():
            there = (f"{name} {', '.join(map(str, np.unique(self.latents[name])))}" for name in ("layer", "prefix"))
            places = sorted({str(CoderKey.parse(name).source) for name in self.coder_names})
            raise ConfigError(f"there is no latent with {where}; there are {'; '.join((*places, *there))}")
        latents = _rows_of(self.latents, kept)
        coders = [coder for coder in self.coders if coder["coder"] in set(latents["coder"].tolist())]
        of = _Members(latents)
        scores = self.scores.of(of(self.scores.about))
        scorers, bands = (_rows_of(table, of(table)) for table in (self.scorers, self.bands))
        return replace(self, coders=coders, latents=latents, scores=scores, scorers=scorers, bands=bands)


def read_tables(results: Results, confidence: float = 0.95) -> Tables:
    """From the judgements themselves; `confidence` is the coverage of every interval."""
    with Judged(results) as judged:
        judgements = records(results.columns(_JUDGEMENTS))
        asked = {(FUZZING if scorer == MISPLACED else scorer, arm) for scorer, arm, _, _ in judgements}
        judged.read_ahead(sorted(asked, key=lambda one: one != ARMS["explanation"]))
        coders = results.columns("SELECT * FROM coders ORDER BY coder")
        latents = results.columns(_LATENTS, text=["stage", "reason", "trigger"])
        wanted = {*asked, ARMS["explanation"]}
        arms = {arm: calibrated(judged, arm) for arm in CALIBRATED if (DETECTION, arm) in wanted}
        plain = arms["plain"]
        ranked = {one for one in (*asked, *ARMS.values()) if one[0] not in MEASURING}
        verdicts = [judged.verdicts(*one) for one in ranked]
        with ThreadPoolExecutor(2) as threads:  # all is read by now: SQLite's connection is this thread's own
            found = threads.map(lambda of: ranks_of(judged, of, confidence), verdicts)
            ranks = dict(zip(ranked, found, strict=True))
        return Tables(
            coders=[dict(zip(coders, row, strict=True)) for row in records(coders)],
            judgements=judgements,
            latents=latents,
            scores=score(judged, ranks, plain, confidence),
            scorers=scorer_values(judged, asked, ranks, confidence),
            bands=band_table(judged, plain.verdicts, plain.posterior, confidence),
            calibration=[calibration_summary(of, arm) for arm, of in arms.items() if len(of.rows)],
        )


def save_tables(tables: Tables, folder: Path) -> None:
    """As Parquet."""
    about = {"coders": tables.coders, "judgements": tables.judgements, "n_quantiles": tables.scores.n_quantiles}
    about |= {"within_documents": tables.scores.within_documents, "calibration": tables.calibration}
    _write(folder / "scores.parquet", _flat(tables.scores), {})
    _write(folder / "scorers.parquet", tables.scorers, {})
    _write(folder / "bands.parquet", tables.bands, {})
    _write(folder / "latents.parquet", tables.latents, about)


def load_tables(folder: Path) -> Tables:
    """What `save_tables` wrote."""
    latents, about = _read(folder / "latents.parquet")
    scores, scorers, bands = (_read(folder / f"{name}.parquet")[0] for name in ("scores", "scorers", "bands"))
    return Tables(
        coders=about["coders"],
        judgements=[tuple(row) for row in about["judgements"]],
        latents=latents,
        scores=_unflattened(scores, about["n_quantiles"], about["within_documents"]),
        scorers=scorers,
        bands=bands,
        calibration=about["calibration"],
    )


class _Members:
    """Which rows of another table are about one of these latents."""

    def __init__(self, latents: dict[str, ndarray]) -> None:
        self._coders = pa.array(latents["coder"], pa.string()).unique()
        self._keys = self._key(latents)

    def __call__(self, table: dict[str, ndarray]) -> Bool[ndarray, "n"]:
        return np.isin(self._key(table), self._keys)

    def _key(self, table: dict[str, ndarray]) -> Int[ndarray, "n"]:
        coder = pc.index_in(pa.array(table["coder"], pa.string()), self._coders).fill_null(-1).to_numpy()
        return (coder.astype(np.int64) << 40) + table["latent"].astype(np.int64)


def _chosen(latents: dict[str, ndarray], where: Where) -> Bool[ndarray, "latents"]:
    rate = latents["firing_rate"].astype(float)
    kept = (rate >= where.min_rate) & (rate <= where.max_rate)
    if where.hookpoint is not None:
        at = {name: str(CoderKey.parse(name).source) == where.hookpoint for name in {*latents["coder"].tolist()}}
        kept &= np.array([at[name] for name in latents["coder"].tolist()], dtype=bool)
    for name, wanted in (("layer", where.layers), ("prefix", where.prefixes)):
        if wanted:
            kept &= np.isin(latents[name].astype(np.int64), wanted)
    for flag in where.flags:
        kept &= latents[flag].astype(bool)
    return np.asarray(kept)


def _rows_of(table: dict[str, ndarray], rows: Bool[ndarray, "n"]) -> dict[str, ndarray]:
    return {name: column[rows] for name, column in table.items()}


def _flat(scores: Scores) -> dict[str, ndarray]:
    """`arm.metric` and, behind it, `.low`, `.high` and `.n`."""
    columns = dict(scores.about)
    for arm, metrics in scores.arms.items():
        for name, column in metrics.items():
            columns |= column.columns(f"{arm}.{name}")
    return columns


def _unflattened(
    columns: dict[str, ndarray], n_quantiles: int, within_documents: dict[str, dict[str, float]]
) -> Scores:
    arms: dict[str, dict[str, Column]] = {}
    for name in columns:
        if name.count(".") == 1:
            arm, metric = name.split(".")
            estimate = Estimate(columns[name], columns[f"{name}.low"], columns[f"{name}.high"])
            arms.setdefault(arm, {})[metric] = Column(estimate, columns[f"{name}.n"].astype(float))
    return Scores(
        {name: column for name, column in columns.items() if "." not in name}, arms, n_quantiles, within_documents
    )


def _write(path: Path, columns: dict[str, ndarray], about: dict[str, Any]) -> None:
    table = pa.table({name: _arrow(column) for name, column in columns.items()})
    write_parquet(path, table.replace_schema_metadata({_ABOUT: json.dumps(about)}))


def _arrow(column: ndarray) -> pa.Array:
    """Objects are text or missing, and text also where all of them are missing; so are numbers that are NaN."""
    return pa.array(column, pa.string() if column.dtype == object else None, from_pandas=True)


def _read(path: Path) -> tuple[dict[str, ndarray], dict[str, Any]]:
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    return columns, json.loads(table.schema.metadata[_ABOUT.encode()])
