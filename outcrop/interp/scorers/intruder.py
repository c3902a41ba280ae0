"""Intruder: which of m windows does not belong? No explanation is shown, so there are no controls.

m − 1 windows are activating, of one quantile; the intruder is non-activating and marked like some window of that
quantile; its place among them is uniform. The windows of a quantile fall into as many disjoint groups as they fill.

    probability = P(right number) / Σ P(number)        predicted = the right number is the likeliest
    measured = (m,), of which 1/m is chance

Of a judge that gives no probabilities the number that it says counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle

import numpy as np

from outcrop.config import ScoreConfig
from outcrop.interp.prompts import marked
from outcrop.interp.scorers.judging import Choice, Question, Verdict
from outcrop.interp.scorers.marks import generator, likewise, patterns
from outcrop.interp.scorers.turns import in_turn, shuffle
from outcrop.interp.scorers.verdicts import one_of
from outcrop.schema import INTRUDER
from outcrop.types import Failure, Judgement, LatentExamples, Message, Reply, Request, Vocabulary, Window

_SHOTS = (
    (
        (
            '" and she put two<< apples>> in the basket before going"',
            '" the<< engine>> was repaired in 1987 by a team of three"',
            '" a bowl of<< pears>> and<< cherries>> stood on the table"',
        ),
        "2",
    ),
    (
        (
            '" was closed<< yesterday>>, but it will open again at"',
            '" nobody had seen him since<< Monday>> of that week"',
            '" his brother lives in a<< house>> with a red door and"',
        ),
        "3",
    ),
    (
        (
            '" he had written<< to>> them about the price of the"',
            '" they were<< angry>> and did not answer when he"',
            '" the child looked<< sad>> because the game was over"',
        ),
        "1",
    ),
)


def questions(examples: Iterable[LatentExamples], vocabulary: Vocabulary, config: ScoreConfig) -> Iterator[Question]:
    """One judgement per question: its source is the quantile (q1 …), its example the intruder.

    A latent without a non-activating window has none, and a quantile has at most as many as there are intruders,
    so that it sees none twice.
    """
    for latent in examples:
        yield from _of_latent(latent, vocabulary, config.intruder_windows)


def _of_latent(latent: LatentExamples, vocabulary: Vocabulary, m: int) -> Iterator[Question]:
    draw = generator(latent.latent)
    others = in_turn(shuffle([example for example in latent.score if not example.activating], draw))
    intruders = cycle(others)
    for quantile in sorted({example.quantile for example in latent.score if example.quantile is not None}):
        members = shuffle([example for example in latent.score if example.quantile == quantile], draw)
        known = patterns(members)
        for i in range(min(len(members) // (m - 1), len(others))):
            windows = [example.window for example in members[i * (m - 1) : (i + 1) * (m - 1)]]
            intruder = next(intruders)
            place = int(draw.integers(m))
            windows.insert(place, likewise(intruder.window, known, draw))
            names = latent.latent, INTRUDER, "plain", "", f"q{quantile}"
            judgement = Judgement(*names, intruder.index, measured=(float(m),))
            yield _question(judgement, windows, place, vocabulary)


def _question(judgement: Judgement, windows: Sequence[Window], place: int, vocabulary: Vocabulary) -> Question:
    solved = [message for texts, answer in _SHOTS for message in (_message(texts), Message("assistant", answer))]
    last = _message([marked(window, vocabulary) for window in windows])
    labels = tuple(str(i + 1) for i in range(len(windows)))
    request = Request((*solved, last), max_tokens=1, labels=labels)
    return Question((judgement,), request, lambda reply: [_verdict(reply, labels, place)])


def _message(texts: Sequence[str]) -> Message:
    question = (
        f"In all of these {len(texts)} texts but one, the words marked with << and >> have something in common. "
        "Which text does not belong? Answer with its number."
    )
    return Message("user", "\n".join([*(f"{i}. {text}" for i, text in enumerate(texts, 1)), question]))


def _verdict(reply: Reply, labels: tuple[str, ...], place: int) -> Verdict:
    match one_of(reply, labels):
        case Failure() as failure:
            return failure
        case int(said):
            return said == place
        case probabilities:
            return Choice(probabilities[place], right=int(np.argmax(probabilities)) == place)
