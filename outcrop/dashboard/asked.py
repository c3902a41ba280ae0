"""What language models were asked about one latent, word for word, and what they answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from outcrop.replies import Replies
from outcrop.report.scorers import SCORERS
from outcrop.report.text import explained_by
from outcrop.results import Results, records
from outcrop.schema import FUZZING, MISPLACED
from outcrop.types import LatentId, Message

_EXPLAINING, _RELATION = "explaining", "relation"
_REQUESTS = f"""
SELECT '{_EXPLAINING}' AS what, '' AS arm, explainer, source, request FROM explanations WHERE coder = ?1 AND latent = ?2
UNION ALL
SELECT CASE scorer WHEN '{MISPLACED}' THEN '{FUZZING}' ELSE scorer END, arm, explainer, source, request
FROM judgements WHERE coder = ?1 AND latent = ?2
UNION ALL
SELECT '{_RELATION}', '', explainer, first || ' and ' || second, request FROM relations WHERE coder = ?1 AND latent = ?2
"""
_WHAT = (_EXPLAINING, *SCORERS, _RELATION)  # in the order in which they stand
_ARMS = {
    "": "",
    "plain": "",
    "base_rate": "told the base rate",
    "other": "another latent’s explanation",
    "none": "without an explanation",
}


@dataclass(frozen=True)
class Purpose:
    """What was asked for one end."""

    title: str
    requests: tuple[str, ...]  # the hashes of those that served no purpose before it
    n_before: int  # that did


@dataclass(frozen=True)
class Asked:
    """A request, and its row among the replies; None where that is gone."""

    request: str
    messages: tuple[Message, ...]
    about: dict[str, Any] | None


def purposes(results: Results, latent: LatentId) -> list[Purpose]:
    """Of all that was asked about a latent."""
    rows = records(results.columns(_REQUESTS, (str(latent.coder), latent.index), text=["request"]))
    found, seen = list[Purpose](), set[str]()
    for purpose, group in groupby(sorted((row for row in rows if row[-1]), key=_place), key=lambda row: row[:-1]):
        requests = dict.fromkeys(request for *_, request in group)
        new = tuple(request for request in requests if request not in seen)
        found.append(Purpose(_title(*purpose), new, len(requests) - len(new)))
        seen.update(new)
    return found


def read(replies: Replies, requests: Sequence[str]) -> list[Asked]:
    rows = [replies.about(request) for request in requests]
    return [
        Asked(request, () if row is None else replies.prompt(request), row)
        for request, row in zip(requests, rows, strict=True)
    ]


def _place(row: tuple[str, ...]) -> tuple[int, int, str, str]:
    what, arm, explainer, source, _ = row
    return _WHAT.index(what), list(_ARMS).index(arm), explainer, source


def _title(what: str, arm: str, explainer: str, source: str) -> str:
    by = explained_by(explainer, source).replace("_", " ")
    return ", ".join(filter(None, (what.capitalize(), by, _ARMS[arm])))
