"""What a reader asks of the table of latents. Every view has an address: it is read from the query of one and written
back to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args
from urllib.parse import urlencode

from outcrop.config.latents import Flag
from outcrop.errors import ConfigError
from outcrop.schema import STATUSES

FLAGS: tuple[str, ...] = (*get_args(Flag), "rare")
PAGE, MOST_ROWS = 100, 1_000  # rows of a page, and of the longest


@dataclass(frozen=True)
class View:
    """What is shown of the table; the fields are the names in an address."""

    hookpoint: str = ""
    coder: str = ""
    layer: int | None = None
    prefix: int | None = None
    status: tuple[str, ...] = ()
    flag: tuple[str, ...] = ()
    least_rate: float | None = None
    most_rate: float | None = None
    words: str = ""  # in the explanation, or the number of a latent
    least: float | None = None  # of the score that is sorted by
    most: float | None = None
    explained_by: str = ""
    sort: str = "balanced_accuracy"
    ascending: bool = False
    page: int = 1
    size: int = PAGE

    @staticmethod
    def of(query: Mapping[str, Sequence[str]]) -> View:
        """From the values of an address by name, empty ones left out. ConfigError for what cannot be read."""
        kinds = {one.name: one.type for one in fields(View)}
        unknown = [name for name in query if name not in kinds]
        if unknown:
            raise ConfigError(f"there is no filter {unknown[0]!r}; there are {', '.join(kinds)}")
        given = {name: [value for value in values if value] for name, values in query.items()}
        read = {name: _read(name, str(kinds[name]), values) for name, values in given.items() if values}
        view = View(**read)
        for name, values, known in (("status", view.status, STATUSES), ("flag", view.flag, FLAGS)):
            if not {*values} <= {*known}:
                raise ConfigError(f"{name} is {', '.join(values)}; expected some of {', '.join(known)}")
        if view.page < 1 or not 1 <= view.size <= MOST_ROWS:
            raise ConfigError(
                f"page {view.page} of {view.size} rows; expected pages from 1 on, of 1 to {MOST_ROWS:,} rows"
            )
        return view

    @property
    def filters(self) -> bool:
        """Whether more is asked for than words and an order."""
        return replace(self, words="", sort=View.sort, ascending=View.ascending, page=1, size=PAGE) != View()

    @property
    def named(self) -> str:
        """A query that is never empty: an address without one is in no view."""
        return self.query() or f"sort={self.sort}"

    def query(self, **changes: Any) -> str:
        """The address's query with some fields changed; those at their defaults are left out."""
        other = replace(self, **changes)
        asked = {
            one.name: _written(getattr(other, one.name))
            for one in fields(self)
            if getattr(other, one.name) != one.default
        }
        return urlencode(asked, doseq=True)


def _read(name: str, kind: str, values: Sequence[str]) -> Any:
    try:
        match kind:
            case "tuple[str, ...]":
                return tuple(values)
            case "bool":
                return ("0", "1").index(values[-1]) == 1
            case "int" | "int | None":
                return int(values[-1])
            case "float | None":
                return _finite(float(values[-1]))
            case _:
                return values[-1]
    except ValueError:
        raise ConfigError(f"{name} is {values[-1]!r}; expected a number") from None


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError
    return value


def _written(value: Any) -> Any:
    return "1" if value is True else "0" if value is False else value
