"""How figures look, and how they become files, SVG and PNG.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; marks differ by shape as well, so that they
stay apart in grey.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from outcrop.report.text import power_of_ten

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "D", "^", "v", "P", "X")
GREY = "#777777"
_STYLE: dict[Any, Any] = {  # no date and no random ids, so that the same numbers give the same files
    "svg.hashsalt": "outcrop",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,  # foreign text may hold a $
}
Drawn = tuple[str, Figure]


def files(draw: Callable[[], Iterable[Drawn]]) -> dict[str, bytes]:
    """File name → its bytes."""
    with rc_context(_STYLE):
        return {f"{name}.{kind}": save(figure) for name, figure in draw() for kind, save in _KINDS.items()}


def _svg(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None})
    return sink.getvalue()


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.set_dpi(200)
    FigureCanvasAgg(figure).print_png(sink, metadata={"Software": None})
    return sink.getvalue()


_KINDS: dict[str, Callable[[Figure], bytes]] = {"svg": _svg, "png": _png}


def new_axes(title: str, width: float | int, height: float | int, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set_title(title)
    return figure, axes


def logarithmic(axes: Axes, *names: str) -> None:
    """Decades without matplotlib's formulas, which are turned off."""
    for name in names:
        getattr(axes, f"set_{name}scale")("log")
        axis: Axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(lambda value, _: power_of_ten(round(math.log10(value))))
        axis.set_minor_formatter(NullFormatter())
