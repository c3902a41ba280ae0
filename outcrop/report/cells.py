"""Cells of the terminal's tables: an estimate on one line, or on several where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

from outcrop.report.text import count, interval, number


@dataclass(frozen=True)
class Cell:
    """Words of which none is broken as long as the column has room for the longest."""

    parts: tuple[Text, ...]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(part.cell_len for part in self.parts), self._line.cell_len)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield self._line if self._line.cell_len <= options.max_width else Text("\n").join(self.parts)

    @property
    def _line(self) -> Text:
        return Text(" ").join(self.parts)


def estimate_cell(estimate: dict[str, Any] | None, n_scored: int | None) -> Cell:
    """Value and interval; with its n, where it has one that is not the caption's."""
    if estimate is None or estimate["value"] is None:
        return Cell((Text("—", style="dim"),))
    said = [Text(number(estimate["value"])), Text(interval(estimate), style="dim")]
    if estimate.get("n") not in (n_scored, None):
        said.append(Text(f"n {count(estimate['n'])}", style="dim"))
    return Cell(tuple(said))
