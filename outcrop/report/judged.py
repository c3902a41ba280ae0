"""What was judged of every explanation: counts and probabilities per stratum, per arm.

A *row* is one explanation with a text. A *cell* is a stratum of the scored windows: cells
0 … Q−1 are the quantiles of the activating ones, cells Q … Q+S−1 the non-activating strata.
Arms: the explanation itself, the control without any, and the token baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from outcrop.config import Explainer
from outcrop.results import DETECTION, TOKEN_BASELINE, Results
from outcrop.types import Stratum

ARMS = ("explanation", "no_explanation", "token_baseline")
STRATA: tuple[str, ...] = get_args(Stratum)

_ROWS = """
SELECT x.coder, x.latent, x.explainer, x.source, x.text, l.layer, l.firing_rate, l.context_rate,
       l.mean_activation, l.selection_probability, g.status
FROM explanations x JOIN latents l USING (coder, latent) JOIN ledger g USING (coder, latent)
WHERE x.text IS NOT NULL ORDER BY x.coder, x.latent, x.explainer, x.source
"""
# The judgements of the three arms, in whose names `arm` is.
ARM_JUDGEMENTS = f"""(
SELECT coder, latent, explainer, source, example, probability, predicted, failure, failure_detail,
       CASE WHEN scorer = '{TOKEN_BASELINE}' THEN 'token_baseline'
            WHEN arm = 'none' THEN 'no_explanation' ELSE 'explanation' END AS arm
FROM judgements WHERE scorer = '{TOKEN_BASELINE}' OR (scorer = '{DETECTION}' AND arm IN ('plain', 'none'))
)"""
_JUDGEMENTS = f"""
SELECT x.coder, x.latent, x.explainer, x.source, COALESCE(e.quantile, 0) AS quantile,
       COALESCE(e.stratum, '') AS stratum, j.probability, j.predicted, j.arm
FROM explanations x JOIN {ARM_JUDGEMENTS} j ON j.coder = x.coder AND j.latent = x.latent
     AND (j.explainer = '' OR (j.explainer = x.explainer AND j.source = x.source))
JOIN examples e ON e.coder = j.coder AND e.latent = j.latent AND e.example = j.example
WHERE x.text IS NOT NULL AND e.split = 'score' AND j.predicted IS NOT NULL
"""


@dataclass(frozen=True)
class Arm:
    """hits: windows predicted to match; n: judged; probabilities[row][cell], missing ones left out."""

    hits: Float[ndarray, "N C"]
    n: Float[ndarray, "N C"]
    probabilities: list[list[ndarray]]


@dataclass(frozen=True)
class Judged:
    """N explanations with text, Q quantiles, S non-activating strata, C = Q + S cells."""

    columns: dict[str, ndarray]  # of _ROWS, each [N]
    n_quantiles: int
    shares: Float[ndarray, "N S"]  # v_s
    arms: dict[str, Arm]

    @property
    def scored(self) -> Bool[ndarray, "N"]:
        """Explanations that were judged on activating and on other windows."""
        n, q = self.arms["explanation"].n, self.n_quantiles
        return (n[:, :q].sum(-1) > 0) & (n[:, q:].sum(-1) > 0)

    @property
    def explainers(self) -> list[tuple[str, str]]:
        """Explainer and source of the explanations, ours first; one without a name where there are none."""
        found = set(zip(self.columns["explainer"], self.columns["source"], strict=True))
        ours = {name: i for i, name in enumerate(get_args(Explainer))}
        return sorted(found, key=lambda one: (ours.get(one[0], len(ours)), one)) or [("", "")]

    def by(self, explainer: str, source: str) -> Bool[ndarray, "N"]:
        return np.asarray((self.columns["explainer"] == explainer) & (self.columns["source"] == source))


def load_judged(results: Results) -> Judged:
    columns = results.columns(_ROWS)
    keys = ("coder", "latent", "explainer", "source")
    row_of = {key: i for i, key in enumerate(zip(*(columns[name] for name in keys), strict=True))}
    quantiles = results.columns("SELECT COALESCE(MAX(quantile), 0) AS q FROM examples")
    n_quantiles = int(quantiles["q"][0])
    judgements = results.columns(_JUDGEMENTS)
    row = np.array([row_of[key] for key in zip(*(judgements[name] for name in keys), strict=True)], dtype=np.int64)
    cell = np.where(judgements["stratum"] == "", judgements["quantile"] - 1, 0)
    for i, stratum in enumerate(STRATA):
        cell[judgements["stratum"] == stratum] = n_quantiles + i
    shape = (len(row_of), n_quantiles + len(STRATA))
    arms = {arm: _arm(judgements, row, cell, judgements["arm"] == arm, shape) for arm in ARMS}
    return Judged(columns, n_quantiles, _shares(results, columns), arms)


def _arm(
    judgements: dict[str, ndarray],
    row: Int[ndarray, "n"],
    cell: Int[ndarray, "n"],
    mine: Bool[ndarray, "n"],
    shape: tuple[int, int],
) -> Arm:
    flat = (row * shape[1] + cell)[mine]
    size = shape[0] * shape[1]
    hits = np.bincount(flat, weights=judgements["predicted"][mine].astype(float), minlength=size).astype(float)
    n = np.bincount(flat, minlength=size).astype(float)
    probability = judgements["probability"][mine].astype(float)
    known = ~np.isnan(probability)
    flat, probability = flat[known], probability[known]
    order = np.argsort(flat, kind="stable")
    ends = np.cumsum(np.bincount(flat, minlength=size))
    cells = np.split(probability[order], ends[:-1]) if size else []
    grouped = [cells[i : i + shape[1]] for i in range(0, size, shape[1])]
    return Arm(hits.reshape(shape), n.reshape(shape), grouped)


def _shares(results: Results, columns: dict[str, ndarray]) -> Float[ndarray, "N S"]:
    """v_s of every row; 0 where the latent has no such stratum."""
    table = results.columns("SELECT coder, latent, stratum, share FROM strata")
    rows = zip(table["coder"], table["latent"], table["stratum"], table["share"], strict=True)
    share = {(coder, latent, stratum): float(v) for coder, latent, stratum, v in rows}
    latents = zip(columns["coder"], columns["latent"], strict=True)
    return np.array([[share.get((*key, s), 0.0) for s in STRATA] for key in latents]).reshape(-1, len(STRATA))
