"""Detection: does this window match the explanation? Windows carry no marks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from outcrop.config import ScoreConfig
from outcrop.interp.prompts import quoted
from outcrop.interp.scorers import yes_no
from outcrop.interp.scorers.judging import Arm, Question
from outcrop.interp.scorers.yes_no import Shown, Wording, in_general
from outcrop.schema import DETECTION
from outcrop.types import Vocabulary

_WORDING = Wording(
    shots=(
        ("names of fruit", '" and she put two apples in the basket before going"', "Yes"),
        ("names of fruit", '" the engine was repaired in 1987 by a team of three"', "No"),
        ("words about time", '" his brother lives in a house with a red door and"', "No"),
        ("words about time", '" was closed yesterday, but it will open again at"', "Yes"),
    ),
    one="Does this text contain {description}?",
    several="Which of these {n} texts contain {description}?",
    base_rate=lambda latent: in_general(latent.context_rate, "texts", "does", "do"),
)


def questions(arms: Iterable[Arm], vocabulary: Vocabulary, config: ScoreConfig) -> Iterator[Question]:
    """One judgement per scored window and arm."""
    for arm in arms:
        shown = [
            Shown(arm.judgement(DETECTION, example), quoted(vocabulary.text(example.window.tokens)))
            for example in arm.examples.score
        ]
        yield from yes_no.questions(arm, shown, _WORDING, config.windows_per_prompt)
