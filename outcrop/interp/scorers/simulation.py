"""Simulation: how strongly does each token of a window activate the latent, from 0 to 10, going by the explanation?

The judge predicts all tokens of a window at once and writes a list of integers. Where it gives probabilities, the
expected value at each place counts instead of the integer (Bills et al., 2023), else the integer does.
With a the true activations over the largest of the latent's scored windows, and p the predicted ones over 10,

    measured = (n, Σa, Σp, Σaa, Σpp, Σap)    over the window's n tokens,

which add up over windows to what `metrics.simulation.correlation` needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from outcrop.config import ScoreConfig
from outcrop.interp.prompts import quoted
from outcrop.interp.scorers.judging import Arm, Question, Verdict
from outcrop.interp.scorers.marks import generator
from outcrop.interp.scorers.turns import in_turn, shuffle
from outcrop.interp.scorers.verdicts import number_list
from outcrop.interp.scorers.yes_no import described
from outcrop.schema import SIMULATION
from outcrop.types import Example, Failure, LatentExamples, Message, Reply, Request, Vocabulary

_MOST = 10
_EACH = 4  # tokens of one number in a list
_SHOTS = (
    ("names of fruit", (" and", " she", " put", " two", " app", "les", " in"), (0, 0, 0, 0, 10, 10, 0)),
    ("words about time", (" closed", " yesterday", ",", " but", " it", " will", " open"), (0, 10, 0, 0, 0, 3, 0)),
)


def questions(arms: Iterable[Arm], vocabulary: Vocabulary, config: ScoreConfig) -> Iterator[Question]:
    """One judgement per arm and window, but for the arm base_rate: a rate of windows says nothing of tokens."""
    for arm in arms:
        if arm.name != "base_rate":
            largest = max((float(example.window.activations.max()) for example in arm.examples.score), default=0.0)
            chosen = _chosen(arm.examples, config.simulation_windows)
            yield from (_question(arm, example, largest, vocabulary) for example in chosen)


def _chosen(latent: LatentExamples, n: int) -> list[Example]:
    """Half of them activating, by turns from all quantiles, the others from all strata; more of one kind where the
    other has too few. The same in all arms."""
    shuffled = shuffle(latent.score, generator(latent.latent))
    fires, silent = (in_turn(example for example in shuffled if example.activating == kind) for kind in (True, False))
    n_silent = min(len(silent), max(n // 2, n - len(fires)))
    return [*fires[: n - n_silent], *silent[:n_silent]]


def _question(arm: Arm, example: Example, largest: float, vocabulary: Vocabulary) -> Question:
    n = len(example.window.tokens)
    solved = (
        message
        for description, tokens, numbers in _SHOTS
        for message in (_message(quoted(description), tokens), Message("assistant", json.dumps(numbers)))
    )
    schema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": _MOST},
        "minItems": n,
        "maxItems": n,
    }
    last = _message(described(arm), vocabulary.strings(example.window.tokens))
    request = Request((*solved, last), max_tokens=_EACH * n + 8, schema=json.dumps(schema), numbers_up_to=_MOST)
    true = example.window.activations.astype(np.float64) / (largest or 1.0)
    return Question((arm.judgement(SIMULATION, example),), request, lambda reply: [_verdict(reply, true)])


def _message(description: str, tokens: Iterable[str]) -> Message:
    listed = [quoted(token) for token in tokens]
    return Message(
        "user",
        f"Tokens: [{', '.join(listed)}]\nFor each of these {len(listed)} tokens: how well does it match {description}, "
        f"from 0 (not at all) to {_MOST} (fully)? Answer with a JSON list of {len(listed)} integers, one per token.",
    )


def _verdict(reply: Reply, true: Float64[ndarray, "w"]) -> Verdict:
    numbers = number_list(reply, len(true), 0.0, float(_MOST))
    if isinstance(numbers, Failure):
        return numbers
    expected = reply.expected_numbers or ()
    return moments(true, np.array(expected if len(expected) == len(true) else numbers) / _MOST)


def moments(true: Float64[ndarray, "w"], predicted: Float64[ndarray, "w"]) -> tuple[float, ...]:
    """(n, Σa, Σp, Σaa, Σpp, Σap)."""
    sums = (true.sum(), predicted.sum(), true @ true, predicted @ predicted, true @ predicted)
    return (float(len(true)), *map(float, sums))
