"""Figures as files, SVG and PNG, for papers and slides.

Each figure says its n and the level of its intervals. What was not measured has no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy import ndarray

from outcrop.report.drawing import COLOURS, GREY, MARKS, Drawn, files, logarithmic, new_axes
from outcrop.report.figures import AGAINST, ARM_NAMES, judged_arms
from outcrop.report.ledger import coder_label
from outcrop.report.tables import Tables
from outcrop.report.text import count, visible

_MOST_DOTS = 5_000


def figure_files(summary: dict[str, Any], tables: Tables) -> dict[str, bytes]:
    """File name → its bytes."""
    return files(lambda: (figure for make in _FIGURES for figure in make(summary, tables)))


def _strata(summary: dict[str, Any], tables: Tables) -> Iterator[Drawn]:
    """Balanced accuracy against each kind of non-activating window, of the explanation, the control and the tokens."""
    overall = summary["scores"]["aggregates"][0]
    if not overall["n_scored"]:
        return
    shown = {name: label for name, label in AGAINST.items() if overall["macro"]["explanation"][name]["n"]}
    title = f"n = {count(overall['n_scored'])} latents, {100 * summary['confidence']:g}% intervals"
    figure, axes = new_axes(title, 6, 0.9 + 0.62 * len(shown), "balanced accuracy, mean over latents", "")
    judged = judged_arms(summary)
    for i, arm in enumerate(ARM_NAMES):
        if arm not in judged:
            continue
        cells = [overall["macro"][arm][metric] for metric in shown]
        at = np.arange(len(cells)) + 0.22 * (i - 1)
        _whiskers(axes, cells, at, i, judged[arm])
    labels = [f"{label}\nn = {count(overall['macro']['explanation'][name]['n'])}" for name, label in shown.items()]
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=0.8)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    yield "strata", figure


def _whiskers(axes: Axes, cells: list[dict[str, Any]], at: ndarray, i: int, name: str) -> None:
    value, low, high = (np.array([cell[end] for cell in cells], dtype=float) for end in ("value", "low", "high"))
    axes.hlines(at, low, high, color=COLOURS[i], linewidth=1.2)
    axes.plot(value, at, MARKS[i], color=COLOURS[i], markersize=5, label=name)


def _against_rate(summary: dict[str, Any], tables: Tables) -> Iterator[Drawn]:
    """Each latent's score over its firing rate."""
    scores = tables.scores.of(tables.scores.scored)
    about, found = scores.about, scores.arms["explanation"]["balanced_accuracy"].estimate
    explainer, source = (summary["scores"]["aggregates"][0][name] for name in ("explainer", "source"))
    rows = np.flatnonzero(scores.by(explainer, source) & ~np.isnan(found.value))
    if not len(rows):
        return
    n = len(rows)
    if n > _MOST_DOTS:
        rows = np.random.default_rng(0).choice(rows, _MOST_DOTS, replace=False)
    some = f", of which {count(_MOST_DOTS)} are shown" if n > _MOST_DOTS else ""
    title = f"n = {count(n)} latents{some}, {100 * summary['confidence']:g}% intervals"
    figure, axes = new_axes(title, 6, 3.6, "firing rate per token", "balanced accuracy")
    rate, coders = about["firing_rate"][rows].astype(float), about["coder"][rows]
    for i, coder in enumerate(sorted(set(coders.tolist()))):
        mine = rows[coders == coder]
        at, style = rate[coders == coder], i % len(COLOURS)
        if n <= 200:
            axes.vlines(at, found.low[mine], found.high[mine], color=COLOURS[style], linewidth=0.7, alpha=0.6)
        axes.plot(at, found.value[mine], MARKS[style], color=COLOURS[style], markersize=4, label=_label(coder))
    logarithmic(axes, "x")
    axes.set_ylim(0, 1.02)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=0.8)
    if len(set(coders.tolist())) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.18))
    yield "rate", figure


def _reliability(summary: dict[str, Any], tables: Tables) -> Iterator[Drawn]:
    """How often windows fire of which the judge says so with a probability; size: share of the weight."""
    for arm in summary["scores"]["calibration"]:
        title = f"n = {count(arm['n'])} judgements, arm {arm['arm']}"
        figure, axes = new_axes(title, 4.4, 4.2, "mean probability", "share of windows in which the latent fires")
        for i, when in enumerate(("before", "after")):
            bins = [one for one in arm[when]["reliability"] if one["observed"] > 0]
            x, y = ([one[name] for one in bins] for name in ("predicted", "observed"))
            axes.plot(x, y, MARKS[i], color=COLOURS[i], label=f"{when} calibration", markersize=6, alpha=0.85)
        axes.axline((1e-3, 1e-3), (1, 1), color=GREY, linestyle="--", linewidth=0.8)
        logarithmic(axes, "x", "y")
        axes.set_xlim(1e-4, 1.5)
        axes.set_ylim(1e-4, 1.5)
        axes.legend(loc="upper left")
        yield f"reliability_{arm['arm']}", figure


def _layers(summary: dict[str, Any], tables: Tables) -> Iterator[Drawn]:
    """FVU of the stack up to each layer."""
    stacks = [coder for coder in summary["reconstruction"] if len(coder["layers"]) > 1]
    if not stacks:
        return
    n = count(min(coder["n_tokens"] for coder in stacks))
    figure, axes = new_axes(
        f"n = {n} held-out tokens", 5, 3.2, "layers of the stack", "fraction of variance unexplained"
    )
    for i, coder in enumerate(stacks):
        style = i % len(COLOURS)
        fvu = [layer["fvu"] for layer in coder["layers"]]
        name = visible(coder["label"], 60)
        axes.plot(range(1, len(fvu) + 1), fvu, marker=MARKS[style], color=COLOURS[style], label=name)
    axes.set_xticks(range(1, max(len(coder["layers"]) for coder in stacks) + 1))
    axes.set_ylim(bottom=0)
    axes.legend()
    yield "layers", figure


def _ledger(summary: dict[str, Any], tables: Tables) -> Iterator[Drawn]:
    """Latents per status, by coder."""
    coders = summary["ledger"]["coders"]
    if not coders:
        return
    title = f"n = {count(summary['ledger']['n_latents'])} latents"
    figure, axes = new_axes(title, 7, 1.1 + 0.4 * len(coders), "share of the latents", "")
    left = np.zeros(len(coders))
    for i, (status, total) in enumerate(summary["ledger"]["counts"].items()):
        share = np.array([coder["counts"][status] / max(1, coder["n_latents"]) for coder in coders])
        hatch = ("", "///", "...", "xxx", "", "|||")[i]
        names = [visible(coder["label"], 40) for coder in coders]
        label = f"{status}, {count(total)}"
        axes.barh(names, share, left=left, color=COLOURS[i], hatch=hatch, edgecolor="white", label=label)
        left += share
    axes.set_xlim(0, 1)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    yield "ledger", figure


def _labels(summary: dict[str, Any], tables: Tables) -> Iterator[Drawn]:
    """Latents by what their activation bands say of each other."""
    for bands in summary["scores"]["bands"]:
        figure, axes = new_axes(f"n = {count(bands['n'])} latents", 6, 2.4, "latents", "")
        axes.barh(list(bands["labels"]), list(bands["labels"].values()), color=COLOURS[0])
        axes.invert_yaxis()
        yield f"bands_{bands['explainer']}", figure


def _label(coder: str) -> str:
    return visible(coder_label(coder), 60)


_FIGURES: tuple[Callable[[dict[str, Any], Tables], Iterator[Drawn]], ...] = (
    _ledger,
    _layers,
    _strata,
    _against_rate,
    _reliability,
    _labels,
)
