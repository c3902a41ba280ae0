"""Fuzzing: are the marked tokens the ones described?

    fuzzing     activating windows with their true marks; non-activating windows marked like one of these
    misplaced   the activating windows again, with as many other tokens marked, which lie like true marks

Both kinds of negatives are drawn by a generator seeded by latent and example: the same in every arm and run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from outcrop.config import ScoreConfig
from outcrop.interp.prompts import marked, marked_words
from outcrop.interp.scorers import yes_no
from outcrop.interp.scorers.judging import Arm, Question
from outcrop.interp.scorers.marks import generator, likewise, misplaced, patterns
from outcrop.interp.scorers.yes_no import Shown, Wording, in_general
from outcrop.schema import FUZZING, MISPLACED
from outcrop.types import Example, LatentExamples, Vocabulary, Window


def _text(text: str, words: str) -> str:
    """A small judge overlooks marks, and tells right from wrong ones better where the words are named, too."""
    return f"{text}\nMarked in this text: {words}"


_WORDING = Wording(
    shots=(
        ("names of fruit", _text('" and she put two<< apples>> in the basket before going"', '"apples"'), "Yes"),
        ("names of fruit", _text('" she ate a pear<< and>> looked out of the window"', '"and"'), "No"),
        ("words about time", _text('" his brother lives in a<< house>> with a red door and"', '"house"'), "No"),
        ("words about time", _text('" was closed<< yesterday>>, but it will open again at"', '"yesterday"'), "Yes"),
    ),
    one="Are the marked words {description}?",
    several="In which of these {n} texts are the marked words {description}?",
    base_rate=lambda latent: in_general(latent.firing_rate, "words", "is", "are"),
)


def questions(arms: Iterable[Arm], vocabulary: Vocabulary, config: ScoreConfig) -> Iterator[Question]:
    """For each arm one judgement per scored window, and one more per activating window that has other tokens enough."""
    for arm in arms:
        shown = [
            Shown(arm.judgement(scorer, example), _text(marked(window, vocabulary), marked_words(window, vocabulary)))
            for scorer, example, window in _marked(arm.examples)
        ]
        yield from yes_no.questions(arm, shown, _WORDING, config.windows_per_prompt)


def _marked(latent: LatentExamples) -> Iterator[tuple[str, Example, Window]]:
    """Scorer, example, and the example's window as it is to be marked; nothing where no window shows how marks lie."""
    activating = [example for example in latent.score if example.activating]
    if not activating:
        return
    known = patterns(activating)
    for example in latent.score:
        draw = generator(latent.latent, example.index)
        if not example.activating:
            yield FUZZING, example, likewise(example.window, known, draw)
            continue
        yield FUZZING, example, example.window
        wrong = misplaced(example.window, known, draw)
        if wrong is not None:
            yield MISPLACED, example, wrong
