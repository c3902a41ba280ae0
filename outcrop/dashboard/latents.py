"""All latents of a run as one table, dead and rare ones included, and what is in a `View` of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int
from numpy import ndarray

from outcrop.dashboard.view import View
from outcrop.errors import ConfigError
from outcrop.report.ledger import place_label
from outcrop.report.scorers import COMPARED
from outcrop.report.scores import Column
from outcrop.report.summary import plain
from outcrop.report.tables import Tables
from outcrop.results import records
from outcrop.schema import INTRUDER, STATUSES
from outcrop.types import CoderKey

STATISTICS = {
    "firing_rate": "fires on",
    "context_rate": "in windows",
    "max_activation": "max",
    "context_dependence": "context dependence",
}
SCORES = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "true_accuracy": "true accuracy",
    "accuracy_skill": "skill",
    "token_illusion": "token illusion",
    "beyond_tokens": "beyond tokens",
}
_NUMBER = re.compile("[0-9]{1,9}")  # of a latent


@dataclass(frozen=True)
class Page:
    """Some rows of the table, and of how many. A page behind the last is the last."""

    rows: list[dict[str, Any]]
    n: int
    n_explained: int
    number: int  # from 1 on
    n_pages: int


@dataclass
class LatentTable:
    """The latents [L] beside the explanations of one explainer."""

    columns: dict[str, ndarray]
    text: pa.Array  # null where there is no explanation
    scores: dict[str, str]  # those that the run has, whoever explained, and their titles
    more: dict[str, Column]  # the other metrics of the explanations, which stand in the rows `explained_rows`
    explained_rows: Int[ndarray, "n"]
    _orders: dict[str, Int[ndarray, "L"]] = field(default_factory=dict)
    _asked: dict[str, dict[str, ndarray]] = field(default_factory=dict)

    @staticmethod
    def of(tables: Tables, explainer: str, source: str) -> LatentTable:
        latents, scores = tables.latents, tables.scores
        n = len(latents["latent"])
        mine = np.flatnonzero(scores.by(explainer, source))
        place = {name: i for i, name in enumerate(records(latents, "coder", "latent"))}
        row = _rows(place, scores.about, mine)
        places = {name: place_label(CoderKey.parse(name)) for name in tables.coder_names}
        hookpoint = np.array([places[name] for name in latents["coder"].tolist()], dtype=object)
        columns = latents | {"hookpoint": hookpoint}
        known = scores.arms["explanation"].items()
        metrics = {name: one.of(mine) for name, one in known if name in SCORES or one.n.any()}
        for metric in SCORES:
            columns |= _spread(n, row, metrics.pop(metric).columns(metric))
        text = np.full(n, None, dtype=object)
        text[row] = scores.about["text"][mine]
        others = {name: title for name, (_, title) in COMPARED.items() if (tables.scorers["scorer"] == name).any()}
        for scorer in others:
            found = _values_of(tables.scorers, scorer, explainer, source)
            columns |= _spread(n, _rows(place, tables.scorers, found), _columns_of(tables.scorers, scorer, found))
        return LatentTable(columns, pa.array(text, pa.string()), SCORES | others, metrics, row)

    def __len__(self) -> int:
        return len(self.columns["latent"])

    @cached_property
    def hookpoints(self) -> list[str]:
        return sorted({*self._hookpoint_of.values()})

    @cached_property
    def _hookpoint_of(self) -> dict[str, str]:
        return {coder: place_label(CoderKey.parse(coder)) for coder in self.coders}

    @cached_property
    def coders(self) -> list[str]:
        return sorted(set(self.columns["coder"].tolist()))

    def coders_in(self, view: View) -> list[str]:
        """Those whose latents a view may hold."""
        at = (coder for coder, hookpoint in self._hookpoint_of.items() if view.hookpoint in ("", hookpoint))
        return [coder for coder in at if view.coder in ("", coder)]

    @cached_property
    def layers(self) -> list[int]:
        return sorted({int(layer) for layer in np.unique(self.columns["layer"])})

    @cached_property
    def prefixes(self) -> list[int]:
        return sorted({int(prefix) for prefix in np.unique(self.columns["prefix"])})

    @cached_property
    def sortable(self) -> dict[str, str]:
        """The columns that a view can be in the order of, and their titles."""
        more = {name: name.replace("_", " ") for name in self.more}
        return {"latent": "latent", "layer": "layer"} | STATISTICS | self.scores | more

    def shown(self, view: View) -> dict[str, str]:
        """The scores that stand in a view, and their titles; one that is only there to be sorted by comes first."""
        asked = {view.sort: self.sortable[view.sort]} if view.sort in self.more else {}
        return asked | self.scores

    @cached_property
    def trigger(self) -> pa.Array:
        """The first trigger of each latent; null where its triggers hold less than half of its firings."""
        return pa.array(self.columns["trigger"], pa.string())

    @cached_property
    def explained(self) -> Bool[ndarray, "L"]:
        explained: Bool[ndarray, "L"] = self.text.is_valid().to_numpy(zero_copy_only=False)
        return explained

    def chosen(self, view: View) -> Int[ndarray, "n"]:
        """The rows of a view, in its order. ConfigError where nothing here is called what it is sorted by."""
        order = self._order(view.sort)
        known = self._n_known(view.sort)
        order = order if view.ascending else np.concatenate([order[:known][::-1], order[known:]])
        return order[self._kept(view)[order]]

    def page(self, view: View) -> Page:
        rows = self.chosen(view)
        n_pages = max(1, -(-len(rows) // view.size))
        number = min(view.page, n_pages)
        shown = rows[(number - 1) * view.size : number * view.size]
        n_explained = int(self.explained[rows].sum())
        return Page([self.row(i, view) for i in shown.tolist()], len(rows), n_explained, number, n_pages)

    def place(self, coder: str, latent: int) -> int | None:
        """The row of a latent; None where there is none."""
        rows = self._numbered.get(coder, np.empty(0, dtype=np.int64))
        at = int(np.searchsorted(self.columns["latent"][rows], latent))
        return int(rows[at]) if at < len(rows) and self.columns["latent"][rows[at]] == latent else None

    def row(self, i: int, view: View | None = None) -> dict[str, Any]:
        """Plain values, with `text`; None for what is missing."""
        columns = self.columns if view is None else self.columns | self._asked_for(view.sort)
        found: dict[str, Any] = plain({name: column[i] for name, column in columns.items()})
        return found | {"text": self.text[i].as_py()}

    def told(self, i: int) -> dict[str, str | None]:
        return {"text": self.text[i].as_py(), "trigger": self.trigger[i].as_py()}

    def table(self, view: View) -> pa.Table:
        """Every row of a view."""
        return self.rows(self.chosen(view), view)

    def rows(self, rows: Int[ndarray, "n"], view: View) -> pa.Table:
        """Whole, with the columns of a view."""
        standing, asked = (
            {name: pa.array(column[rows], from_pandas=True) for name, column in columns.items()}
            for columns in (self.columns, self._asked_for(view.sort))
        )
        return pa.table(standing | {"text": self.text.take(pa.array(rows))} | asked)

    def holds(self, row: int, view: View) -> bool:
        return bool(self._kept(view)[row])

    def around(self, row: int, view: View | None = None) -> tuple[int | None, int | None]:
        """The rows before and behind one, in a view or else among the latents of its coder by number."""
        order = self._numbered[self.columns["coder"][row]] if view is None else self.chosen(view)
        found = np.flatnonzero(order == row)
        if not len(found):
            return None, None
        at = int(found[0])
        before = int(order[at - 1]) if at > 0 else None
        behind = int(order[at + 1]) if at + 1 < len(order) else None
        return before, behind

    @cached_property
    def _numbered(self) -> dict[str, Int[ndarray, "n"]]:
        """The rows of each coder by the number of the latent."""
        of_coder = {coder: np.flatnonzero(self.columns["coder"] == coder) for coder in self.coders}
        return {coder: rows[np.argsort(self.columns["latent"][rows])] for coder, rows in of_coder.items()}

    def _kept(self, view: View) -> Bool[ndarray, "L"]:
        kept = np.ones(len(self), dtype=bool)
        for asked, name, there in (
            (view.hookpoint, "hookpoint", self.hookpoints),
            (view.coder, "coder", self.coders),
            (view.layer, "layer", self.layers),
            (view.prefix, "prefix", self.prefixes),
        ):
            if asked in ("", None):
                continue
            if asked not in there:
                raise ConfigError(f"there is no {name} {asked}; there are {', '.join(map(str, there))}")
            kept &= self.columns[name] == asked
        if view.status:
            kept &= np.isin(self._status, [STATUSES.index(status) for status in view.status])
        for flag in view.flag:
            kept &= self.columns[flag].astype(bool)
        for column, least, most in (
            (self.columns["firing_rate"], view.least_rate, view.most_rate),
            (self._sorted_by(view.sort), view.least, view.most),
        ):
            for bound, holds in ((least, np.greater_equal), (most, np.less_equal)):
                if bound is not None:
                    kept &= holds(column.astype(float), bound)
        if view.words:
            told = np.zeros(len(self), dtype=bool)
            for texts in (self.text, self.trigger):
                found = pc.match_substring(texts, view.words, ignore_case=True)
                told |= pc.fill_null(found, False).to_numpy(zero_copy_only=False)
            if _NUMBER.fullmatch(view.words):
                told = told | (self.columns["latent"] == int(view.words))
            kept &= told
        return kept

    @cached_property
    def _status(self) -> Int[ndarray, "L"]:
        number = {status: i for i, status in enumerate(STATUSES)}
        return np.array([number[status] for status in self.columns["status"].tolist()])

    def _order(self, name: str) -> Int[ndarray, "L"]:
        """Ascending, missing values last, those of scored latents first; equal ones as the table has them."""
        if name not in self._orders:
            column = self._sorted_by(name)
            unscored = np.isnan(column) & (self._status != STATUSES.index("scored"))
            self._orders[name] = np.lexsort((unscored, column))
        return self._orders[name]

    def _n_known(self, name: str) -> int:
        return int((~np.isnan(self._sorted_by(name))).sum())

    def _sorted_by(self, name: str) -> ndarray:
        if name not in self.sortable:
            raise ConfigError(f"there is no {name} here to sort by; there are {', '.join(self.sortable)}")
        return self._asked_for(name)[name] if name in self.more else self.columns[name]

    def _asked_for(self, name: str) -> dict[str, ndarray]:
        """The columns of a metric that stands in the table only where it is sorted by."""
        if name not in self.more:
            return {}
        if name not in self._asked:
            self._asked[name] = _spread(len(self), self.explained_rows, self.more[name].columns(name))
        return self._asked[name]


def _values_of(scorers: Mapping[str, ndarray], scorer: str, explainer: str, source: str) -> Int[ndarray, "n"]:
    """The rows of a scorer's values of the explanations themselves, or of the windows, where it is not about those."""
    metric, _ = COMPARED[scorer]
    if scorer == INTRUDER:
        explainer = source = ""
    named = {"scorer": scorer, "metric": metric, "arm": "plain", "explainer": explainer, "source": source}
    return np.flatnonzero(np.logical_and.reduce([scorers[name] == value for name, value in named.items()]))


def _columns_of(scorers: Mapping[str, ndarray], scorer: str, rows: Int[ndarray, "n"]) -> dict[str, ndarray]:
    named = {"value": scorer} | {end: f"{scorer}.{end}" for end in ("low", "high", "n")}
    return {name: scorers[column][rows].astype(float) for column, name in named.items()}


def _spread(n: int, rows: Int[ndarray, "explained"], columns: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """Columns of n latents, of which some have a value."""
    found = {name: np.full(n, np.nan) for name in columns}
    for name, values in columns.items():
        found[name][rows] = values
    return found


def _rows(place: Mapping[Any, int], about: Mapping[str, ndarray], mine: ndarray) -> Int[ndarray, "n"]:
    """Where the latents of some explanations stand."""
    names = records({key: about[key][mine] for key in ("coder", "latent")})
    return np.array([place[name] for name in names], dtype=np.int64)
