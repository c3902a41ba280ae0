"""Questions to be answered with yes or no: what detection and fuzzing share.

One window per question:    probability = P(yes) / (P(yes) + P(no)), predicted = probability > ½
where both labels together hold at least 1% of the next-token distribution; else the answer is
unreadable, a failure. Of a judge that gives no probabilities the first word counts.

Several windows per question: the judge writes a list of Yes and No, one per window, and no
probabilities. A window then sees what was said of those before it, so their order is random.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from outcrop.interp.prompts import quoted
from outcrop.interp.scorers.judging import Arm, Question
from outcrop.interp.scorers.marks import generator
from outcrop.interp.scorers.verdicts import LABELS, yes_or_no, yes_or_no_list
from outcrop.types import Judgement, LatentExamples, Message, Request

UNKNOWN = "what is described"  # in place of a description

_MANY = 4  # tokens of one answer in a list
_COMMON = 0.1  # a rate above which "1 in n" is coarse


@dataclass(frozen=True)
class Wording:
    """How a scorer asks. A small judge answers far better when it is asked about the description after it
    has read the text than when it reads the description first, and when it has seen four answers."""

    shots: tuple[tuple[str, str, str], ...]  # description, text as it is shown, answer
    one: str  # holds {description}
    several: str  # {n} and {description}
    base_rate: Callable[[LatentExamples], str]  # a sentence


@dataclass(frozen=True)
class Shown:
    """A window as the judge sees it, and the judgement (all but the verdict) that is wanted of it."""

    judgement: Judgement
    text: str  # quoted


def questions(arm: Arm, shown: Sequence[Shown], wording: Wording, windows_per_prompt: int) -> Iterator[Question]:
    """One question for each window, or for several of them at once."""
    if windows_per_prompt == 1:
        yield from (_one(arm, one, wording) for one in shown)
    else:
        windows = _mixed(arm, shown)
        n_prompts = -(-len(windows) // windows_per_prompt)
        for i in range(n_prompts):  # of as equal length as can be: how long a list is moves answers
            first, stop = (len(windows) * j // n_prompts for j in (i, i + 1))
            yield _several(arm, windows[first:stop], wording)


def described(arm: Arm) -> str:
    """The explanation, quoted, or what stands in its place."""
    return UNKNOWN if arm.text is None else quoted(arm.text)


def in_general(rate: float, things: str, one: str, many: str) -> str:
    """A rate as people say it: of 1 in n, or where that would be coarse of so many in 100."""
    if rate <= _COMMON:
        return f"In general about 1 in {round(1 / rate)} {things} {one}."
    return f"In general about {round(100 * rate)} in 100 {things} {many}."


def _one(arm: Arm, shown: Shown, wording: Wording) -> Question:
    solved = (
        message
        for description, text, answer in wording.shots
        for message in (_message(wording, quoted(description), text, ""), Message("assistant", answer))
    )
    last = _message(wording, described(arm), shown.text, _told(arm, wording))
    request = Request((*solved, last), max_tokens=1, labels=LABELS)
    return Question((shown.judgement,), request, lambda reply: [yes_or_no(reply)])


def _message(wording: Wording, description: str, text: str, told: str) -> Message:
    return Message("user", f"Text: {text}\n{wording.one.format(description=description)}{told} Answer Yes or No.")


def _several(arm: Arm, shown: Sequence[Shown], wording: Wording) -> Question:
    n = len(shown)
    texts = [f"{i}. {one.text}" for i, one in enumerate(shown, 1)]
    question = (
        f"{wording.several.format(n=n, description=described(arm))}{_told(arm, wording)} Answer with a JSON list of "
        f'{n} words, "Yes" or "No", one for each text in its order.'
    )
    schema = {"type": "array", "items": {"enum": list(LABELS)}, "minItems": n, "maxItems": n}
    request = Request(
        (Message("user", "\n".join([*texts, question])),), max_tokens=_MANY * n + 8, schema=json.dumps(schema)
    )
    return Question(tuple(one.judgement for one in shown), request, lambda reply: yes_or_no_list(reply, n))


def _told(arm: Arm, wording: Wording) -> str:
    """The base rate, where the judge shall know it."""
    return f" {wording.base_rate(arm.examples)}" if arm.name == "base_rate" else ""


def _mixed(arm: Arm, shown: Sequence[Shown]) -> list[Shown]:
    """In an order that is random, but the same in all arms of a latent. A window that two scorers show stands
    half of the list from its double, which would give it away."""
    scorers = list(dict.fromkeys(one.judgement.scorer for one in shown))
    examples = list(dict.fromkeys(one.judgement.example for one in shown))
    n = len(examples)
    rank = dict(zip(examples, generator(arm.examples.latent).permutation(n).tolist(), strict=True))

    def place(one: Shown) -> float:
        return (rank[one.judgement.example] + scorers.index(one.judgement.scorer) * n / 2) % n

    return sorted(shown, key=place)
