"""What was judged, as flat columns: of every explanation, and of every latent where none was shown.

A *subject* is what a judgement is about: an explanation with a text, or, in the arm "none" and of scorers that need no
explanation, a latent. A *cell* is the kind of a judged window: cells 0 … Q−1 are the quantiles of activating ones,
cells Q … Q+S−1 the non-activating strata, and the last holds activating windows with other tokens marked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.config import Explainer
from outcrop.metrics.ranking import order_within
from outcrop.results import Results
from outcrop.schema import DETECTION, EMBEDDING, FUZZING, INTRUDER, MISPLACED, SIMULATION, SURPRISAL, TOKEN_BASELINE
from outcrop.types import Stratum

STRATA: tuple[str, ...] = get_args(Stratum)

# The three arms that are compared window by window: their scorer, and the arm's name among the judgements.
ARMS = {
    "explanation": (DETECTION, "plain"),
    "no_explanation": (DETECTION, "none"),
    "token_baseline": (TOKEN_BASELINE, "plain"),
}
MEASURING = (INTRUDER, EMBEDDING, SURPRISAL, SIMULATION)
_ROWS = {FUZZING: (FUZZING, MISPLACED)}  # of which judgements a scorer's verdicts are, where not of its own alone

_LATENTS = """
SELECT coder, latent FROM latents WHERE selection_probability IS NOT NULL
UNION SELECT coder, latent FROM explanations ORDER BY 1, 2
"""
_TEXTS = "SELECT coder, latent, explainer, source FROM explanations WHERE text IS NOT NULL ORDER BY 1, 2, 3, 4"
_ABOUT = """
SELECT s.id AS of_latent, x.coder, x.latent, x.explainer, x.source, x.text, l.layer, l.prefix, l.firing_rate,
       l.context_rate, l.mean_activation, l.dense, l.positional, l.pure_token, l.selection_probability
FROM temp.text t JOIN explanations x USING (coder, latent, explainer, source)
     JOIN latents l USING (coder, latent) JOIN temp.subject s USING (coder, latent) ORDER BY t.id
"""
_WINDOWS = """
SELECT s.id AS latent, e.example, e.document, e.peak, e.mass,
       CASE WHEN e.split != 'score' THEN -1 WHEN e.quantile IS NOT NULL THEN e.quantile - 1
            ELSE ? + CASE e.stratum {} END END AS cell
FROM temp.subject s CROSS JOIN examples e USING (coder, latent)
"""
_JUDGEMENTS = """
SELECT s.id, j.example, COALESCE(j.predicted, -1) AS predicted, COALESCE(j.probability, -1.0) AS probability{measured}
FROM temp.{subject} s CROSS JOIN judgements j
  ON j.coder = s.coder AND j.latent = s.latent AND j.scorer = ? AND j.arm = ? AND j.explainer = {explainer}
"""
_OF_TEXT = {"subject": "text", "explainer": "s.explainer AND j.source = s.source"}
_OF_LATENT = {"subject": "subject", "explainer": "''"}

_EXAMPLE = {
    **dict.fromkeys(("latent", "example", "document", "cell"), np.int32),
    **dict.fromkeys(("peak", "mass"), np.float32),
}
_JUDGED = {"id": np.int32, "example": np.int32, "predicted": np.float32, "probability": np.float64}


@dataclass(frozen=True)
class Windows:
    """The examples of all latents, end to end."""

    start: Int[ndarray, "L"]  # where those of each latent begin
    latent: Int[ndarray, "E"]
    cell: Int[ndarray, "E"]  # −1 for those of explainers
    cluster: Int[ndarray, "E"]  # the scored windows of one document in its latent; −1 where there is but one
    peak: Float[ndarray, "E"]
    mass: Float[ndarray, "E"]  # Σ activation


@dataclass(frozen=True)
class Verdicts:
    """What one scorer said in one arm of R subjects, on scored windows; n judgements."""

    scorer: str
    n_subjects: int
    n_cells: int
    of_texts: bool  # subjects are explanations; else latents
    subject: Int[ndarray, "n"]
    window: Int[ndarray, "n"]  # its row in `Judged.windows`
    cell: Int[ndarray, "n"]
    predicted: Float[ndarray, "n"]  # NaN where there is no yes or no
    probability: Float[ndarray, "n"]  # NaN where there is none
    measured: ndarray  # lists of numbers, by scorers that measure; empty where the judgement failed

    @cached_property
    def counts(self) -> tuple[Float[ndarray, "R C"], Float[ndarray, "R C"]]:
        """Windows that were predicted to match, and windows judged, of each subject in each cell."""
        judged = ~np.isnan(self.predicted)
        flat, predicted = (self.subject * self.n_cells + self.cell)[judged], self.predicted[judged]
        shape, size = (self.n_subjects, self.n_cells), self.n_subjects * self.n_cells
        hits, n = np.bincount(flat, weights=predicted, minlength=size), np.bincount(flat, minlength=size)
        return hits.reshape(shape).astype(np.float64), n.reshape(shape).astype(np.float64)

    @cached_property
    def n_judged(self) -> Int[ndarray, "R"]:
        """Judgements about each subject that did not fail."""
        said = ~np.isnan(self.predicted)
        if self.scorer in MEASURING:
            said = np.array([bool(numbers) for numbers in self.measured], dtype=bool)
        return np.bincount(self.subject[said], minlength=self.n_subjects)

    @cached_property
    def asked(self) -> Bool[ndarray, "R"]:
        """Subjects about which there is a judgement, if only a failed one."""
        return np.bincount(self.subject, minlength=self.n_subjects) > 0


class Judged:
    """The judgements of a results database, read scorer by scorer; a thread reads ahead, until the context is left."""

    def __init__(self, results: Results) -> None:
        self._results, self._verdicts = results, dict[tuple[str, str], Verdicts]()
        results.number("subject", _LATENTS)
        results.number("text", _TEXTS)
        self.n_quantiles = int(results.columns("SELECT COALESCE(MAX(quantile), 0) AS q FROM examples")["q"][0])
        self.n_cells = self.n_quantiles + len(STRATA) + 1
        self._reader = ThreadPoolExecutor(1)
        self._numbers: dict[tuple[str, str], Future[dict[str, ndarray]]] = {}
        cases = _WINDOWS.format(" ".join(f"WHEN '{stratum}' THEN {i}" for i, stratum in enumerate(STRATA)))
        self._examples = self._reader.submit(results.numbers, cases, _EXAMPLE, (self.n_quantiles,))

    def __enter__(self) -> Judged:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)  # nobody may close the database under it

    def read_ahead(self, asked: Iterable[tuple[str, str]]) -> None:
        """Begin to read what these scorers said in these arms, but for what they measured."""
        for scorer, arm in asked:
            for one in _ROWS.get(scorer, (scorer,)):
                if one not in MEASURING:
                    query = _JUDGEMENTS.format(measured="", **_names(one, arm))
                    self._numbers[one, arm] = self._reader.submit(self._results.numbers, query, _JUDGED, (one, arm))

    @cached_property
    def texts(self) -> dict[str, ndarray]:
        """Of every explanation with a text, by coder, latent, explainer and source: what it says, and its latent."""
        return self._results.columns(_ABOUT)

    @cached_property
    def latents(self) -> dict[str, ndarray]:
        """Of every latent that was selected or has an explanation: coder and latent."""
        return self._results.columns("SELECT coder, latent FROM temp.subject ORDER BY id")

    @cached_property
    def relations(self) -> dict[str, ndarray]:
        """What was said of pairs of explanations; `failed` where nothing could be read."""
        return self._results.columns(
            "SELECT coder, latent, explainer, first, second, COALESCE(relation, 'failed') AS relation FROM relations"
        )

    @cached_property
    def shares(self) -> Float[ndarray, "L S"]:
        """v_s of every latent; 0 where it has no such stratum."""
        table = self._results.columns(
            "SELECT s.id, t.stratum, t.share FROM temp.subject s CROSS JOIN strata t USING (coder, latent)"
        )
        shares = np.zeros((len(self.latents["coder"]), len(STRATA)))
        for i, stratum in enumerate(STRATA):
            mine = table["stratum"] == stratum
            shares[table["id"][mine].astype(np.int64), i] = table["share"][mine].astype(float)
        return shares

    @cached_property
    def latent_of(self) -> Int[ndarray, "N"]:
        """The latent of every explanation."""
        return self.texts["of_latent"].astype(np.int64)

    def weights(self, verdicts: Verdicts) -> Float[ndarray, "R C"]:
        """What each cell weighs for the subjects of these verdicts: each quantile alike, and each stratum its share;
        in fuzzing misplaced marks weigh as much as all non-activating windows together."""
        shares = self.shares[self.latent_of] if verdicts.of_texts else self.shares
        misplaced = 0.5 if verdicts.scorer == FUZZING else 0.0
        even, last = (np.full((len(shares), n), w) for n, w in ((self.n_quantiles, 1.0), (1, misplaced)))
        return np.hstack([even, shares * (1 - misplaced), last])

    def verdicts(self, scorer: str, arm: str) -> Verdicts:
        """Of explanations, or of latents where none was shown. Read once and kept."""
        if (scorer, arm) not in self._verdicts:
            self._verdicts[scorer, arm] = self._read_verdicts(scorer, arm)
        return self._verdicts[scorer, arm]

    def _read_verdicts(self, scorer: str, arm: str) -> Verdicts:
        of_texts = _names(scorer, arm) == _OF_TEXT
        parts = [self._read(one, arm, of_texts) for one in _ROWS.get(scorer, (scorer,))]
        columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        n = len((self.texts if of_texts else self.latents)["coder"])
        return Verdicts(scorer, n, self.n_cells, of_texts, *columns)

    def _read(self, scorer: str, arm: str, of_texts: bool) -> tuple[ndarray, ...]:
        """The columns of `Verdicts`."""
        subject, example, verdicts, measured = self._rows(scorer, arm)
        window = self.windows.start[self.latent_of[subject] if of_texts else subject] + example
        cell = self.windows.cell[window]
        scored = cell >= 0
        if scorer == MISPLACED:
            cell = np.full_like(cell, self.n_cells - 1)
        return tuple(column[scored] for column in (subject, window, cell, *verdicts, measured))

    def _rows(self, scorer: str, arm: str) -> tuple[ndarray, ndarray, list[ndarray], ndarray]:
        """Subject, example, predicted and probability, and what was measured, of every judgement."""
        asked, measures = (scorer, arm), scorer in MEASURING
        if measures:
            query = _JUDGEMENTS.format(measured=", COALESCE(j.measured, '[]') AS measured", **_names(scorer, arm))
            rows = self._results.columns(query, asked)
        else:
            if asked not in self._numbers:
                self.read_ahead([asked])
            rows = self._numbers.pop(asked).result()
        subject, example = (rows[name].astype(np.int64) for name in ("id", "example"))
        measured = np.empty(len(subject), dtype=object)
        if measures:
            measured[:] = [json.loads(text) for text in rows["measured"].tolist()]
        verdicts = [np.where(rows[name] < 0, np.nan, rows[name]) for name in ("predicted", "probability")]
        return subject, example, verdicts, measured

    @cached_property
    def windows(self) -> Windows:
        rows = self._examples.result()
        n_examples = np.zeros(len(self.latents["coder"]), dtype=np.int64)
        np.maximum.at(n_examples, rows["latent"], rows["example"] + 1)
        start = np.cumsum(n_examples) - n_examples
        at, n = start[rows["latent"]] + rows["example"], int(n_examples.sum())
        found = {name: rows[name] for name in ("latent", "cell", "peak", "mass")} | {"cluster": _clusters(rows)}
        columns = {name: np.zeros(n, dtype=values.dtype) for name, values in found.items()}
        columns["cell"][:] = -1
        for name, column in columns.items():
            column[at] = found[name]
        return Windows(start, **columns)


def _names(scorer: str, arm: str) -> dict[str, str]:
    """What the judgements of a scorer in an arm are about."""
    return _OF_LATENT if arm == "none" or scorer in (TOKEN_BASELINE, INTRUDER) else _OF_TEXT


def _clusters(rows: dict[str, ndarray]) -> Int[ndarray, "E"]:
    """Of rows of `_EXAMPLE`, see `Windows`."""
    scored = np.flatnonzero(rows["cell"] >= 0)
    key = (rows["latent"][scored].astype(np.int64) << 32) + rows["document"][scored]
    _, of, size = np.unique(key, return_inverse=True, return_counts=True)
    cluster = np.full(len(rows["cell"]), -1)
    cluster[scored] = np.where(size > 1, np.arange(len(size)), -1)[of]
    return cluster


def ranked_within(group: Int[ndarray, "n"], key: ndarray, n_groups: int) -> tuple[Int[ndarray, "n"], Int[ndarray, "G"]]:
    """The rank of each item by its key within its group, from 0, and the size of each group."""
    order, n = order_within(group, key), np.bincount(group, minlength=n_groups)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - (np.cumsum(n) - n)[group[order]]
    return rank, n


def explainers(texts: dict[str, ndarray]) -> list[tuple[str, str]]:
    """Explainer and source of the explanations, ours first; one without a name where there are none."""
    found = set(zip(texts["explainer"], texts["source"], strict=True))
    ours = {name: i for i, name in enumerate(get_args(Explainer))}
    return sorted(found, key=lambda one: (ours.get(one[0], len(ours)), one)) or [("", "")]
