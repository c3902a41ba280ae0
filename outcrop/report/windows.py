"""What the page shows of one explained latent: its windows, and what was judged of each.

A window's tokens become pieces: a firing token, or a trigger token of a non-activating window,
is a piece of its own; the tokens between them are one piece.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from outcrop.report.judged import ARMS, STRATA
from outcrop.report.text import explained_by, number, visible_token
from outcrop.results import Results
from outcrop.types import Example, Explanation, LatentExamples, LatentId, Vocabulary

N_SHADES = 8

_Judgements = dict[tuple[str, int, int], list[dict[str, Any]]]  # by coder, latent and example


@dataclass(frozen=True)
class Piece:
    text: str  # visible already, not yet escaped
    activation: float = 0.0
    shade: int = 0  # 1 … N_SHADES, of the latent's strongest activation shown
    trigger: bool = False


@dataclass(frozen=True)
class Verdict:
    arm: str
    probability: float | None
    right: bool | None  # None: failed
    failure: str | None


@dataclass(frozen=True)
class WindowView:
    pieces: tuple[Piece, ...]
    row: int
    document: int
    peak: float
    quantile: int | None
    stratum: str | None
    trigger: str | None
    like: str | None  # what makes it like a window in which the latent fires
    verdicts: tuple[Verdict, ...]

    @property
    def outcome(self) -> str:
        """Of the judgement of the explanation: wrong, failed, right or unjudged."""
        for verdict in self.verdicts:
            if verdict.arm == "explanation":
                return "failed" if verdict.right is None else "right" if verdict.right else "wrong"
        return "unjudged"


@dataclass(frozen=True)
class WindowGroup:
    """The windows of one quantile (`name` "5") or stratum, mistakes first."""

    name: str
    activating: bool
    windows: tuple[WindowView, ...]
    n_wrong: int


@dataclass(frozen=True)
class LatentPage:
    """One explanation, or its failure, with everything that was shown and judged."""

    latent: LatentId
    layer: int
    explainer: str
    source: str
    text: str | None
    failure: str | None
    firing_rate: float
    context_rate: float
    shares: dict[str, float]
    n_windows: int  # that the explainer was shown
    explain: tuple[WindowGroup, ...]  # those for explaining, of which it was shown some or all
    scored: tuple[WindowGroup, ...]

    @property
    def explained_by(self) -> str:
        return explained_by(self.explainer, self.source)


def latent_pages(results: Results, examples: Sequence[LatentExamples], vocabulary: Vocabulary) -> list[LatentPage]:
    """One page per explanation whose latent is among the examples; a failure has one only where no other explainer
    said anything of its latent."""
    table = results.columns("SELECT coder, latent, layer FROM latents")
    rows = zip(table["coder"], table["latent"], table["layer"], strict=True)
    layer_of = {(coder, int(latent)): int(layer) for coder, latent, layer in rows}
    verdicts = _verdicts(results)
    by_latent = {example.latent: example for example in examples}
    explanations = results.explanations()
    told = {explanation.latent for explanation in explanations if explanation.text is not None}
    return [
        _page(explanation, by_latent[explanation.latent], layer_of, verdicts, vocabulary)
        for explanation in explanations
        if explanation.latent in by_latent and (explanation.text is not None or explanation.latent not in told)
    ]


def _verdicts(results: Results) -> _Judgements:
    found: _Judgements = defaultdict(list)
    for arm, names in sorted(ARMS.items()):
        table = results.columns("SELECT * FROM judgements WHERE scorer = ? AND arm = ?", names)
        for values in zip(*table.values(), strict=True):
            row = {**dict(zip(table, values, strict=True)), "arm": arm}
            found[str(row["coder"]), int(row["latent"]), int(row["example"])].append(row)
    return found


def _page(
    explanation: Explanation,
    examples: LatentExamples,
    layer_of: dict[tuple[str, int], int],
    verdicts: _Judgements,
    vocabulary: Vocabulary,
) -> LatentPage:
    latent = explanation.latent
    name = (str(latent.coder), latent.index)
    peak = max((float(e.window.activations.max()) for e in (*examples.explain, *examples.score)), default=0.0)

    def views(of: Iterable[Example]) -> list[WindowView]:
        return [_view(e, verdicts.get((*name, e.index), []), explanation, peak, vocabulary) for e in of]

    return LatentPage(
        latent=latent,
        layer=layer_of[name],
        explainer=explanation.explainer,
        source=explanation.source,
        text=explanation.text,
        failure=str(explanation.failure) if explanation.failure else None,
        firing_rate=examples.firing_rate,
        context_rate=examples.context_rate,
        shares={share.stratum: share.share for share in examples.strata},
        n_windows=explanation.n_windows,
        explain=_groups(views(examples.explain)),
        scored=_groups(views(examples.score)),
    )


def _view(
    example: Example, judgements: list[dict[str, Any]], explanation: Explanation, peak: float, vocabulary: Vocabulary
) -> WindowView:
    named = (explanation.explainer, explanation.source)
    mine = [row for row in judgements if row["explainer"] == "" or (row["explainer"], row["source"]) == named]
    return WindowView(
        pieces=_pieces(example, peak, vocabulary),
        row=example.row,
        document=example.window.document,
        peak=float(example.window.activations.max()),
        quantile=example.quantile,
        stratum=example.stratum,
        trigger=_token(example.trigger, vocabulary),
        like=_like(example),
        verdicts=tuple(_verdict(row, example.activating) for row in mine),
    )


def _token(token: int | None, vocabulary: Vocabulary) -> str | None:
    return None if token is None else visible_token(vocabulary.text([token]).strip(" ") or " ")


def _like(example: Example) -> str | None:
    if example.distance is None:
        return None
    alike = f"{number(1 - example.distance)} alike"
    return f"latent {example.source} fires, {alike}" if example.stratum == "neighbour" else f"{alike} in meaning"


def _verdict(row: dict[str, Any], activating: bool) -> Verdict:
    if isinstance(row["failure"], str):
        return Verdict(row["arm"], None, None, f"{row['failure']}: {row['failure_detail']}")
    probability = None if np.isnan(row["probability"]) else float(row["probability"])
    return Verdict(row["arm"], probability, bool(row["predicted"]) == activating, None)


def _pieces(example: Example, peak: float, vocabulary: Vocabulary) -> tuple[Piece, ...]:
    window = example.window
    pieces: list[Piece] = []
    for token, text, activation in zip(
        window.tokens, vocabulary.strings(window.tokens), window.activations, strict=True
    ):
        trigger = example.trigger == int(token)
        shade = int(np.ceil(N_SHADES * float(activation) / peak)) if activation > 0 else 0
        piece = Piece(visible_token(text), float(activation), shade, trigger)
        if pieces and not (shade or trigger or pieces[-1].shade or pieces[-1].trigger):
            pieces[-1] = Piece(pieces[-1].text + piece.text)
        else:
            pieces.append(piece)
    return tuple(pieces)


def _groups(views: list[WindowView]) -> tuple[WindowGroup, ...]:
    """Quantiles from the strongest down, then the strata."""
    quantiles = sorted({view.quantile for view in views if view.quantile is not None}, reverse=True)
    groups = [_group(str(q), True, [v for v in views if v.quantile == q]) for q in quantiles]
    groups += [_group(name, False, [v for v in views if v.stratum == name]) for name in STRATA]
    return tuple(group for group in groups if group.windows)


def _group(name: str, activating: bool, views: list[WindowView]) -> WindowGroup:
    order = ("wrong", "failed", "right", "unjudged")
    ranked = sorted(views, key=lambda view: (order.index(view.outcome), -view.peak))
    return WindowGroup(name, activating, tuple(ranked), sum(view.outcome == "wrong" for view in views))
