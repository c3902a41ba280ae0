"""The report as one HTML file: no script, no outside request, everything foreign escaped.

The style sheet is allowed by its hash and nothing else is allowed at all, so that even markup
that slipped through could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from outcrop.report import figures, text
from outcrop.report.judged import STRATA
from outcrop.report.ledger import coder_label
from outcrop.report.scorers import SCORER_ARMS, SCORER_METRICS, scored_by_others, scorer_rows
from outcrop.report.summary import scores_of
from outcrop.report.tables import Tables
from outcrop.report.windows import N_SHADES, LatentPage, latent_pages
from outcrop.results import records

__all__ = ["LatentPage", "latent_pages", "render_page"]

TEMPLATES = Path(__file__).parent / "templates"

METRIC_NAMES = {
    "balanced_accuracy": "Balanced accuracy",
    "balanced_accuracy_random": "… against random windows",
    "balanced_accuracy_same_token": "… against same-token windows",
    "balanced_accuracy_neighbour": "… against windows of neighbours",
    "balanced_accuracy_semantic": "… against windows alike in meaning",
    "chance_corrected": "… corrected for the control",
    "informedness": "Informedness J",
    "beyond_tokens": "… beyond tokens",
    "beyond_tokens_same_token": "… beyond tokens, against same-token windows",
    "auroc": "AUROC",
    "average_precision": "True average precision",
    "tpr": "True positive rate",
    "fpr": "False positive rate",
    "fpr_random": "… on random windows",
    "fpr_same_token": "… on same-token windows",
    "fpr_neighbour": "… on windows of neighbours",
    "fpr_semantic": "… on windows alike in meaning",
    "token_illusion": "Token illusion",
    "true_accuracy": "True accuracy",
    "accuracy_skill": "Accuracy skill",
    "precision": "True precision",
    "f1": "True F1",
    "true_accuracy_calibrated": "True accuracy, calibrated",
    "accuracy_skill_calibrated": "Accuracy skill, calibrated",
    "brier": "Brier score",
    "brier_calibrated": "… calibrated",
    "log_loss": "Log loss",
    "log_loss_calibrated": "… calibrated",
    "predicted_rate": "Predicted rate π̂",
    "breadth": "Breadth π̂/π",
}
WEIGHTINGS = {
    "firing_rate": "by firing rate",
    "activation_mass": "by activation mass",
    "firing_rate_below_10_percent": "by firing rate, latents below 10% of tokens",
}
UNSCORED = {"at_chance": "at chance", "left_out": "left out", "at_best": "at the best value"}
STRATUM_NAMES = {
    "same_token": "Non-activating, although a trigger token is there",
    "neighbour": "Non-activating, although a neighbouring latent fires",
    "semantic": "Non-activating, although alike in meaning",
    "random": "Non-activating, random",
}


@dataclass(frozen=True)
class Card:
    """A latent's page beside its scores, with the anchor that links to it."""

    anchor: str
    page: LatentPage
    label: str
    scores: dict[str, Any] | None
    others: list[dict[str, Any]]  # the scorers beside detection: title, value, low, high, n
    status: str

    @property
    def score(self) -> float | None:
        value: float | None = self.scores["explanation"]["balanced_accuracy"]["value"] if self.scores else None
        return value

    @property
    def n_scored(self) -> int:
        return sum(len(group.windows) for group in self.page.scored)

    @property
    def n_explain(self) -> int:
        return sum(len(group.windows) for group in self.page.explain)

    @property
    def n_wrong(self) -> int:
        return sum(group.n_wrong for group in self.page.scored)


def render_page(summary: dict[str, Any], tables: Tables, latents: Sequence[LatentPage]) -> str:
    """The whole page, from the tables, their summary (`report.summary`) and the explained latents."""
    style = Markup(style_sheet())
    template = templates().get_template("page.html.j2")
    return template.render(
        **findings(summary),
        cards=Cards(tables)(latents),
        index="#latents",
        replies=None,
        document=None,
        query="",
        several=len({page.explained_by for page in latents}) > 1,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        n_shades=N_SHADES,
    )


def style_sheet() -> str:
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")


def findings(summary: dict[str, Any]) -> dict[str, Any]:
    """What `findings.html.j2` and `card.html.j2` show of a summary."""
    overall, *others = summary["scores"]["aggregates"]
    weighted = {name: overall["weighted"][key]["unscored"] for key, name in WEIGHTINGS.items()}
    scorers, arms = scorer_rows(summary["scores"]["scorers"]), figures.judged_arms(summary)
    return {
        "summary": summary,
        "reconstruction": summary["reconstruction"],
        "overall": overall,
        "places": [a for a in others if (a["explainer"], a["source"]) == (overall["explainer"], overall["source"])],
        "scorers": scorers,
        "scorer_arms": {arm: name for arm, name in SCORER_ARMS.items() if any(arm in row for row in scorers.values())},
        "scorer_metrics": SCORER_METRICS,
        "perfect": [a for a in summary["scores"]["aggregates"] if a["coder"] is None and a["n_scored"]],
        "metrics": _judged(overall["macro"], METRIC_NAMES),
        "weightings": WEIGHTINGS,
        "unscored": UNSCORED,
        "with_unscored": {"each latent once": overall["unscored"], **weighted},
        "rho": summary["scores"]["within_documents"]["explanation"],
        "strata": STRATUM_NAMES,
        "against": figures.AGAINST,
        "arms": arms,
        "stratum_chart": _stratum_chart(summary, arms),
        "quantile_chart": _quantile_chart(summary, arms),
    }


@cache
def templates(*folders: Path) -> Environment:
    """Those of the report, behind those of other folders."""
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "foreign": text.foreign,
        "marked": text.marked,
        "token": text.token,
        "number": text.number,
        "probability": text.probability,
        "count": text.count,
        "percent": text.percent,
        "one_in": text.one_in,
        "interval": text.interval,
        "slug": figures.slug,
        "coder_label": coder_label,
    }
    environment.globals |= {
        "arm_names": figures.ARM_NAMES,
        "ledger_bar": figures.ledger_bar,
        "rate_histogram": figures.rate_histogram,
        "legend_mark": figures.legend_mark,
        "latent_chart": _latent_chart,
        "small_interval": figures.small_interval,
        "reliability_chart": figures.reliability_chart,
    }
    return environment


class Cards:
    """Cards of the explanations of a run."""

    def __init__(self, tables: Tables) -> None:
        self._scores, self._coders = tables.scores, tables.coder_names
        self._rows = {name: i for i, name in enumerate(records(tables.scores.about, *_EXPLANATION))}
        self._others = scored_by_others(tables.scorers)
        self._statuses = {(coder, latent): status for coder, latent, status in records(tables.latents, *_LATENT)}

    def __call__(self, pages: Sequence[LatentPage]) -> list[Card]:
        """By balanced accuracy, the best first; those without one last."""
        cards = [self._card(i, page) for i, page in enumerate(pages)]
        return sorted(cards, key=lambda card: (card.score is None, -(card.score or 0)))

    def _card(self, number: int, page: LatentPage) -> Card:
        name = (str(page.latent.coder), page.latent.index)
        row = self._rows.get((*name, page.explainer, page.source))
        scores = None if row is None else scores_of(self._scores, row)
        anchor = f"latent-{self._coders.index(name[0])}-{page.latent.index}-{number}"
        others = self._others.get((*name, page.explainer, page.source), [])
        return Card(anchor, page, coder_label(name[0]), scores, others, _status(page, scores, self._statuses[name]))


_EXPLANATION = ("coder", "latent", "explainer", "source")
_LATENT = ("coder", "latent", "status")


def _status(page: LatentPage, scores: dict[str, Any] | None, of_latent: str) -> str:
    """That of the explanation: its latent may be scored by another one, or by another scorer; and it may be younger
    than the tables."""
    if page.text is None:
        return "failed"
    if scores is None:
        return "explained only"
    judged = scores["explanation"]["balanced_accuracy"]["n"] > 0
    return of_latent if judged or of_latent != "scored" else "not judged by detection"


def _rows(
    scores: dict[str, Any], metrics: dict[str, str], arms: Iterable[str]
) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    there = _judged(scores, metrics)
    return [(name, {arm: scores[arm][metric] for arm in arms}) for metric, name in there.items()]


def _judged(scores: dict[str, Any], metrics: dict[str, str]) -> dict[str, str]:
    """Without those of strata in which nothing was judged."""
    missing = tuple(f"_{stratum}" for stratum in STRATA if not scores["explanation"][f"fpr_{stratum}"]["n"])
    return {metric: name for metric, name in metrics.items() if not metric.endswith(missing)}


def _stratum_chart(summary: dict[str, Any], arms: Iterable[str]) -> Markup:
    rows = _rows(summary["scores"]["aggregates"][0]["macro"], figures.AGAINST, arms)
    return figures.interval_chart(rows, "Balanced accuracy against each kind of non-activating window", 0.5)


def _quantile_chart(summary: dict[str, Any], arms: Iterable[str]) -> Markup:
    macro = summary["scores"]["aggregates"][0]["macro"]
    n = summary["scores"]["n_quantiles"]
    ends = {n: ", strongest", 1: ", weakest"}
    names = {f"tpr_q{q}": f"quantile {q}{ends.get(q, '')}" for q in range(n, 0, -1)}
    rows = _rows(macro, names, arms)
    return figures.interval_chart(rows, "True positive rate by quantile of the window's peak")


def _latent_chart(scores: dict[str, Any], arms: Iterable[str]) -> Markup:
    return figures.interval_chart(_rows(scores, figures.AGAINST, arms), "Balanced accuracy of this latent", 0.5)
