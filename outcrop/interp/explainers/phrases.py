"""From an explainer's reply to its phrase."""

from __future__ import annotations

import re

from outcrop.interp.prompts import ANSWER
from outcrop.types import Failure, Reply

_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_LEAD_IN = re.compile(r"^(short |one |the )*(explanation|answer|phrase|description)\s*[:：]\s*", re.IGNORECASE)
_THEY = re.compile(
    r"^(they|these words|the marked words)( [\"“].*[\"”],?)?( all)? (are|have in common|have|share)"
    r"( all)?( that)?( with)?( related to)?:?\s+",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"^((the|a) )?((same|common|shared) )*(topic|concept|meaning)( of|:|,? which is)\s+", re.IGNORECASE
)
_WRAPPING = " \t`*"
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


def explanation_of(reply: Reply, *, thought: bool) -> tuple[str | Failure, str | None]:
    """The phrase, and the reasoning before it; a failure where there is no phrase.

    Where the explainer was to think aloud, only what stands behind the last "Explanation:" counts.
    """
    before, mark, behind = reply.text.rpartition(ANSWER)
    if thought and not mark:
        return Failure("unreadable", f"no line begins with {ANSWER!r}: {reply.text[-200:]!r}"), reply.text or None
    text = phrase(behind if thought else reply.text)
    failure = Failure("empty", f"no phrase in the reply {reply.text[:200]!r}")
    return text or failure, before.strip() or None if thought else None


def phrase(reply: str) -> str:
    """The first line that says something, without quotes, lead-in and full stop."""
    for line in _THOUGHTS.sub("", reply).splitlines():
        bare = _bare(_LEAD_IN.sub("", _bare(line)))
        bare = _bare(_FILLER.sub("", _THEY.sub("", bare)))
        if any(character.isalnum() for character in bare):
            return bare
    return ""


def _bare(text: str) -> str:
    """Without spaces, emphasis, a full stop, and quotation marks around the whole."""
    text = text.strip(_WRAPPING).removesuffix(".").strip(_WRAPPING)
    if len(text) > 1 and text[1:-1].count(text[0]) == 0 and _QUOTES.get(text[0]) == text[-1]:
        return _bare(text[1:-1])
    return text
