"""What the page shows of one explained latent: its windows, and what was judged of each.

A window's tokens become pieces: a firing token, or a trigger token of a non-activating window,
is a piece of its own; the tokens between them are one piece.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from outcrop.report.judged import ARMS, STRATA
from outcrop.report.text import explained_by, number, visible_token
from outcrop.results import Results
from outcrop.types import Example, Explanation, LatentExamples, LatentId, StratumShare, Vocabulary

N_SHADES = 8

_Judgements = dict[int, list[dict[str, Any]]]  # by example


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
    request: str | None  # its hash, where a language model was asked


@dataclass(frozen=True)
class WindowView:
    pieces: tuple[Piece, ...]
    row: int
    document: int
    context: int  # of its first token, as the cache counts them
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
    request: str | None  # the hash of what was asked, where a language model was
    firing_rate: float
    context_rate: float
    strata: tuple[StratumShare, ...]
    n_windows: int  # that the explainer was shown
    explain: tuple[WindowGroup, ...]  # those for explaining, of which it was shown some or all
    scored: tuple[WindowGroup, ...]

    @property
    def explained_by(self) -> str:
        return explained_by(self.explainer, self.source)

    @property
    def shares(self) -> dict[str, float]:
        return {stratum.stratum: stratum.share for stratum in self.strata}

    @property
    def unseen(self) -> list[StratumShare]:
        """Strata with a share of the corpus of which nothing was there to be judged."""
        seen = {group.name for group in self.scored}
        return [stratum for stratum in self.strata if stratum.share > 0 and stratum.stratum not in seen]


def latent_pages(results: Results, examples: Sequence[LatentExamples], vocabulary: Vocabulary) -> list[LatentPage]:
    """One page per explanation whose latent is among the examples; a failure has one only where no other explainer
    said anything of its latent."""
    return [page for of_latent in examples for page in _pages(results, of_latent, vocabulary)]


def window_groups(examples: Sequence[Example], vocabulary: Vocabulary) -> tuple[WindowGroup, ...]:
    """Windows by quantile and stratum, without anything that was judged."""
    peak = _peak(examples)
    return _groups([_view(example, [], peak, vocabulary) for example in examples])


def _pages(results: Results, examples: LatentExamples, vocabulary: Vocabulary) -> Iterator[LatentPage]:
    explanations = results.explanations(examples.latent)
    told = any(explanation.text is not None for explanation in explanations)
    shown = [explanation for explanation in explanations if explanation.text is not None or not told]
    if shown:
        name = (str(examples.latent.coder), examples.latent.index)
        layer = int(results.columns("SELECT layer FROM latents WHERE coder = ? AND latent = ?", name)["layer"][0])
        judgements = _judgements(results, name)
        for explanation in shown:
            yield _page(explanation, examples, layer, judgements, vocabulary)


def _judgements(results: Results, latent: tuple[str, int]) -> _Judgements:
    found: _Judgements = defaultdict(list)
    for arm, names in sorted(ARMS.items()):
        query = "SELECT * FROM judgements WHERE coder = ? AND latent = ? AND scorer = ? AND arm = ?"
        table = results.columns(query, (*latent, *names), text=["request", "failure", "failure_detail"])
        for values in zip(*table.values(), strict=True):
            row = {**dict(zip(table, values, strict=True)), "arm": arm}
            found[int(row["example"])].append(row)
    return found


def _peak(examples: Sequence[Example]) -> float:
    return max((float(example.window.activations.max()) for example in examples), default=0.0)


def _page(
    explanation: Explanation, examples: LatentExamples, layer: int, judgements: _Judgements, vocabulary: Vocabulary
) -> LatentPage:
    peak, named = _peak((*examples.explain, *examples.score)), (explanation.explainer, explanation.source)

    def views(of: Iterable[Example]) -> list[WindowView]:
        return [_view(e, list(mine(judgements.get(e.index, ()))), peak, vocabulary) for e in of]

    def mine(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return (row for row in rows if row["explainer"] == "" or (row["explainer"], row["source"]) == named)

    return LatentPage(
        latent=explanation.latent,
        layer=layer,
        explainer=explanation.explainer,
        source=explanation.source,
        text=explanation.text,
        failure=str(explanation.failure) if explanation.failure else None,
        request=explanation.request or None,
        firing_rate=examples.firing_rate,
        context_rate=examples.context_rate,
        strata=examples.strata,
        n_windows=explanation.n_windows,
        explain=_groups(views(examples.explain)),
        scored=_groups(views(examples.score)),
    )


def _view(example: Example, judgements: list[dict[str, Any]], peak: float, vocabulary: Vocabulary) -> WindowView:
    window = example.window
    return WindowView(
        pieces=pieces_of(window.tokens, window.activations, peak, vocabulary, example.trigger),
        row=example.row,
        document=window.document,
        context=window.context,
        peak=float(example.window.activations.max()),
        quantile=example.quantile,
        stratum=example.stratum,
        trigger=_token(example.trigger, vocabulary),
        like=_like(example),
        verdicts=tuple(_verdict(row, example.activating) for row in judgements),
    )


def _token(token: int | None, vocabulary: Vocabulary) -> str | None:
    return None if token is None else visible_token(vocabulary.text([token]))


def _like(example: Example) -> str | None:
    if example.distance is None:
        return None
    alike = f"{number(1 - example.distance)} alike"
    return f"latent {example.source} fires, {alike}" if example.stratum == "neighbour" else f"{alike} in meaning"


def _verdict(row: dict[str, Any], activating: bool) -> Verdict:
    request = row["request"] or None
    if row["failure"] is not None:
        return Verdict(row["arm"], None, None, f"{row['failure']}: {row['failure_detail']}", request)
    probability = None if np.isnan(row["probability"]) else float(row["probability"])
    return Verdict(row["arm"], probability, bool(row["predicted"]) == activating, None, request)


def pieces_of(
    tokens: Int[ndarray, "t"],
    activations: Float[ndarray, "t"],
    peak: float,
    vocabulary: Vocabulary,
    trigger: int | None,
) -> tuple[Piece, ...]:
    """Shades are shares of the peak."""
    pieces: list[Piece] = []
    for token, text, activation in zip(tokens.tolist(), vocabulary.strings(tokens), activations.tolist(), strict=True):
        shade = shade_of(activation, peak)
        piece = Piece(visible_token(text), float(activation), shade, token == trigger)
        if pieces and not (shade or piece.trigger or pieces[-1].shade or pieces[-1].trigger):
            pieces[-1] = Piece(pieces[-1].text + piece.text)
        else:
            pieces.append(piece)
    return tuple(pieces)


def shade_of(activation: float, peak: float) -> int:
    """1 … N_SHADES, by its share of the peak; 0 where nothing fires."""
    return int(np.ceil(N_SHADES * activation / peak)) if activation > 0 else 0


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
