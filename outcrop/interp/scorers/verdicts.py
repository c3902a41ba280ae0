"""Reading answers: whatever a judge writes becomes a verdict or a failure, and never an error."""

from __future__ import annotations

import json
import re

from outcrop.types import Failure, Reply

LABELS = ("Yes", "No")

_LEAST_MASS = 0.01
_UNENDED = "a list that does not end"
_WORD = re.compile(r"[^\W_]+")
_LIST = re.compile(r"\[[^\[\]]*\]")
_NUMBERING = re.compile(r"^\s*(?:\W{0,8}(?:text|window)?\W{0,8}\d+\W+)?", re.IGNORECASE)  # bounded: linear in time


def yes_or_no(reply: Reply) -> float | bool | Failure:
    """A probability; yes or no where the judge gives none; or why it is neither."""
    if reply.label_probabilities is None:
        return _said(reply.text)
    yes, no = reply.label_probabilities
    if yes + no < _LEAST_MASS:
        return Failure("unreadable", f"yes and no have a probability of {yes + no:.2g}; it says {reply.text[:100]!r}")
    return yes / (yes + no)


def yes_or_no_list(reply: Reply, n: int) -> list[bool | Failure]:
    """One word for each of n windows, from a JSON list, from nothing but words, or from lines; all fail where there are
    not n."""
    words = json_list(reply.text)
    if words is None:
        bare = [part for part in re.split(r"[,;\s]+", reply.text) if _NUMBERING.sub("", f"{part} ").strip()]
        alone = len(bare) == n and not any(isinstance(_said(word), Failure) for word in bare)
        words = list(bare) if alone else None
    if words is None:
        lines = [_NUMBERING.sub("", line) for line in reply.text.splitlines()]
        words = [line for line in lines if not isinstance(_said(line), Failure)]
    if len(words) != n:
        return [Failure("unreadable", f"{len(words)} answers to {n} texts: {reply.text[:100]!r}")] * n
    return [_said(str(word)) if isinstance(word, str | bool) or word in (0, 1) else _no_word(word) for word in words]


def number_list(reply: Reply, n: int, least: float, most: float) -> list[float] | Failure:
    """n numbers between two bounds, from the last JSON list in the answer."""
    found = json_list(reply.text)
    if found is None or len(found) != n:
        seen = f"{len(found)} elements" if found is not None else _UNENDED if "[" in reply.text else "no list"
        return Failure("unreadable", f"{seen} where {n} numbers were asked for: {reply.text[:100]!r}")
    numbers = [one for one in found if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) < n or not all(least <= one <= most for one in numbers):
        return Failure("unreadable", f"not {n} numbers from {least:g} to {most:g}: {reply.text[:100]!r}")
    return [float(one) for one in numbers]


def json_list(text: str) -> list[object] | None:
    """The last flat JSON list in a text; None where there is none."""
    for found in reversed(_LIST.findall(text)):
        try:
            return list(json.loads(found))
        except (ValueError, RecursionError):
            continue
    return None


def _no_word(said: object) -> Failure:
    return Failure("unreadable", f"neither yes nor no but {str(said)[:100]!r}")


def _said(text: str) -> bool | Failure:
    word = _WORD.search(text.casefold())
    match word and word[0]:
        case "yes" | "true" | "1":
            return True
        case "no" | "false" | "0":
            return False
        case _:
            return Failure("unreadable", f"neither yes nor no but {text[:100]!r}")


def one_of(reply: Reply, labels: tuple[str, ...]) -> tuple[float, ...] | int | Failure:
    """Probabilities of the labels; the label that is said where the judge gives none; or why it is neither."""
    if reply.label_probabilities is not None:
        total = sum(reply.label_probabilities)
        if total >= _LEAST_MASS:
            return tuple(p / total for p in reply.label_probabilities)
        return Failure("unreadable", f"the labels have a probability of {total:.2g}; it says {reply.text[:100]!r}")
    word = _WORD.search(reply.text)
    known = {label.casefold(): i for i, label in enumerate(labels)}
    if word and word[0].casefold() in known:
        return known[word[0].casefold()]
    return Failure("unreadable", f"none of {', '.join(labels)} but {reply.text[:100]!r}")
