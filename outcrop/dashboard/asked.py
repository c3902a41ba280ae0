"""What language models were asked about one latent, word for word, and what they answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from outcrop.interp.explain import BANDS
from outcrop.replies import Replies
from outcrop.report.scorers import SCORERS
from outcrop.report.text import explained_by
from outcrop.results import Results, records
from outcrop.schema import FUZZING, MISPLACED
from outcrop.types import LatentId, Message

_EXPLAINING, _TRIED, _RELATION = "explaining", "other rounds, and trials", "relation"
_REQUESTS = f"""
SELECT '{_EXPLAINING}' AS what, '' AS arm, explainer, source, request FROM explanations WHERE coder = ?1 AND latent = ?2
UNION ALL
SELECT '{_TRIED}', '', explainer, source, value FROM explanations, json_each(tried) WHERE coder = ?1 AND latent = ?2
UNION ALL
SELECT CASE scorer WHEN '{MISPLACED}' THEN '{FUZZING}' ELSE scorer END, arm, explainer, source, request
FROM judgements WHERE coder = ?1 AND latent = ?2
UNION ALL
SELECT '{_RELATION}', '', explainer, first || ' and ' || second, request FROM relations WHERE coder = ?1 AND latent = ?2
"""
_WHAT = (_EXPLAINING, _TRIED, *SCORERS, _RELATION)  # in the order in which they stand
_ARMS = {
    "": "",
    "plain": "",
    "base_rate": "told the base rate",
    "other": "another latent’s explanation",
    "none": "without an explanation",
}


@dataclass(frozen=True)
class Purpose:
    """Requests of one kind: for one explanation, or of one scorer and arm about it."""

    title: str
    requests: tuple[str, ...]  # their hashes, but for those that an earlier purpose shows
    n_before: int  # that one does


@dataclass(frozen=True)
class Asked:
    """A request, and its row among the replies; None where that is gone."""

    request: str
    messages: tuple[Message, ...]
    about: dict[str, Any] | None

    @property
    def probabilities(self) -> list[tuple[str, float]]:
        """Of the answers that it could give, where they were asked for."""
        assert self.about is not None
        return list(zip(json.loads(self.about["labels"]), json.loads(self.about["label_probabilities"]), strict=True))


def purposes(results: Results, latent: LatentId, explainers: Sequence[tuple[str, str]]) -> list[Purpose]:
    """Of what was asked for the explanations and judgements that stand, in the order of their explainers."""
    rows = records(results.columns(_REQUESTS, (str(latent.coder), latent.index), text=["request"]))
    sent = sorted((row for row in rows if row[-1]), key=_by(explainers))
    found, seen = list[Purpose](), set[str]()
    for purpose, group in groupby(sent, key=lambda row: row[:-1]):
        requests = dict.fromkeys(request for *_, request in group)
        new = tuple(request for request in requests if request not in seen)
        found.append(Purpose(_title(*purpose), new, len(requests) - len(new)))
        seen.update(new)
    return found


def with_replies(replies: Replies, requests: Sequence[str]) -> list[Asked]:
    rows = [replies.about(request) for request in requests]
    return [
        Asked(request, () if row is None else replies.prompt(request), row)
        for request, row in zip(requests, rows, strict=True)
    ]


def _by(explainers: Sequence[tuple[str, str]]) -> Callable[[tuple[str, ...]], tuple[Any, ...]]:
    """Where a row stands: by what was asked, the arm, the explainer, and the band or quantile."""
    names = list(dict.fromkeys(name for name, _ in explainers))

    def place(row: tuple[str, ...]) -> tuple[Any, ...]:
        what, arm, explainer, source, _ = row
        band = BANDS.index(source) if source in BANDS else len(BANDS)
        known = names.index(explainer) if explainer in names else len(names)
        return _WHAT.index(what), list(_ARMS).index(arm), known, explainer, band, len(source), source

    return place


def _title(what: str, arm: str, explainer: str, source: str) -> str:
    by = explained_by(explainer, source).replace("_", " ")
    return ", ".join(filter(None, (what.capitalize(), by, _ARMS[arm])))
