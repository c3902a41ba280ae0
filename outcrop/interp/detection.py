"""Detection: does this window match the explanation?

One window per question:    probability = P(yes) / (P(yes) + P(no)), predicted = probability > ½
where both labels together hold at least 1% of the next-token distribution; else the answer is
unreadable, a failure. Of a judge that gives no probabilities the first word counts.

Several windows per question: the judge writes a list of Yes and No, one per window, and no
probabilities. A window then sees what was said of those before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from outcrop.config import ScoreConfig
from outcrop.interp.judging import Arm, Question
from outcrop.interp.prompts import quoted
from outcrop.interp.verdicts import LABELS, yes_or_no, yes_or_no_list
from outcrop.results import DETECTION
from outcrop.types import Example, Message, Request, Vocabulary

# A small judge answers far better when it is asked about the description after it has read the text
# than when it reads the description first, and when it has seen four answers.
_SHOTS = (
    ("names of fruit", " and she put two apples in the basket before going", "Yes"),
    ("names of fruit", " the engine was repaired in 1987 by a team of three", "No"),
    ("words about time", " his brother lives in a house with a red door and", "No"),
    ("words about time", " was closed yesterday, but it will open again at", "Yes"),
)
_UNKNOWN = "what is described"
_MANY = 4  # tokens of one answer in a list


def questions(arms: Iterable[Arm], vocabulary: Vocabulary, config: ScoreConfig) -> Iterator[Question]:
    """One judgement per scored window and arm."""
    for arm in arms:
        if config.windows_per_prompt == 1:
            yield from (_one(arm, example, vocabulary) for example in arm.examples.score)
        else:
            windows = iter(arm.examples.score)
            while some := list(islice(windows, config.windows_per_prompt)):
                yield _several(arm, some, vocabulary)


def _one(arm: Arm, example: Example, vocabulary: Vocabulary) -> Question:
    text = quoted(vocabulary.text(example.window.tokens))
    messages = (*_solved(), _question(_described(arm), text, _told(arm)))
    request = Request(messages, max_tokens=1, labels=LABELS)
    return Question((arm.judgement(DETECTION, example),), request, lambda reply: [yes_or_no(reply)])


def _several(arm: Arm, examples: Sequence[Example], vocabulary: Vocabulary) -> Question:
    n = len(examples)
    texts = [f"{i}. {quoted(vocabulary.text(example.window.tokens))}" for i, example in enumerate(examples, 1)]
    question = (
        f"Which of these {n} texts contain {_described(arm)}?{_told(arm)} Answer with a JSON list of {n} words, "
        '"Yes" or "No", one for each text in its order.'
    )
    schema = {"type": "array", "items": {"enum": list(LABELS)}, "minItems": n, "maxItems": n}
    request = Request(
        (Message("user", "\n".join([*texts, question])),), max_tokens=_MANY * n + 8, schema=json.dumps(schema)
    )
    judgements = tuple(arm.judgement(DETECTION, example) for example in examples)
    return Question(judgements, request, lambda reply: yes_or_no_list(reply, n))


def _solved() -> list[Message]:
    return [
        message
        for description, text, answer in _SHOTS
        for message in (_question(quoted(description), quoted(text), ""), Message("assistant", answer))
    ]


def _described(arm: Arm) -> str:
    return _UNKNOWN if arm.text is None else quoted(arm.text)


def _told(arm: Arm) -> str:
    """The base rate, where the judge shall know it."""
    if arm.name != "base_rate":
        return ""
    return f" In general about 1 in {max(1, round(1 / arm.examples.context_rate))} texts does."


def _question(description: str, text: str, told: str) -> Message:
    return Message("user", f"Text: {text}\nDoes this text contain {description}?{told} Answer Yes or No.")
