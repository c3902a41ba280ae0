"""The rule without context, by hand: three token types, eight tokens, a firing rate of a quarter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from outcrop.interp.scorers.token_baseline import fit_rule, token_baseline
from outcrop.types import Example, TokenEvidence
from tests.interp.conftest import WORDS, latent, window

APPLE, PEAR, HOUSE, THE = (WORDS.index(word) for word in (" apple", " pear", " house", " the"))
EVIDENCE = TokenEvidence(
    latent().latent,
    fired=np.array([2, 0, 0]),  # apple, pear, house
    occurrences=np.array([2, 3, 3]),
    windows=np.array([[APPLE, HOUSE], [PEAR, HOUSE], [HOUSE, HOUSE]]),
    fires=np.array([True, False, False]),
    triggers=np.array([0]),
    pure=True,
)
RATE = 2 / 8
P_APPLE, P_PEAR, P_HOUSE = (2 + RATE) / 3, RATE / 4, RATE / 4


def probability(*tokens: int) -> float:
    return float(fit_rule(EVIDENCE).probability(np.array([tokens]))[0])


def test_a_token_type_fires_as_often_as_it_did_drawn_towards_the_rate() -> None:
    assert [probability(t) for t in (APPLE, PEAR, HOUSE)] == pytest.approx([P_APPLE, P_PEAR, P_HOUSE])
    assert (P_APPLE, P_PEAR, P_HOUSE) == (0.75, 0.0625, 0.0625)


def test_a_type_that_the_explain_documents_lack_fires_at_the_rate() -> None:
    assert probability(THE) == pytest.approx(RATE)
    gap = replace(EVIDENCE, fired=np.array([2, 0, 0, 0]), occurrences=np.array([2, 3, 3, 0]))  # within the table
    assert fit_rule(gap).probability(np.array([[3]])) == pytest.approx(RATE)


def test_a_window_fires_unless_every_token_of_it_misses() -> None:
    assert probability(PEAR, HOUSE) == pytest.approx(1 - (1 - P_PEAR) * (1 - P_HOUSE))
    assert probability(APPLE, THE) == pytest.approx(1 - (1 - P_APPLE) * (1 - RATE))


def test_the_threshold_parts_the_windows_where_that_can_be_done() -> None:
    assert fit_rule(EVIDENCE).threshold == pytest.approx(probability(APPLE, HOUSE))


def test_of_thresholds_that_part_equally_well_the_highest_is_taken() -> None:
    """At p(apple) one of two firing windows is found and no other; at the rate both, and one of two others: J is ½."""
    windows, fires = np.array([[APPLE], [THE], [THE], [PEAR]]), np.array([True, True, False, False])
    assert fit_rule(replace(EVIDENCE, windows=windows, fires=fires)).threshold == pytest.approx(P_APPLE)


def test_every_scored_window_is_judged_and_at_the_threshold_it_is_yes() -> None:
    words = (" apple", " pear", " the", " house")
    score = tuple(Example(7 + i, i, "score", window(word), stratum="random") for i, word in enumerate(words))
    evidence = replace(EVIDENCE, windows=np.array([[APPLE], [HOUSE]]), fires=np.array([True, False]))
    found = list(token_baseline([replace(latent(), score=score)], [evidence]))
    assert [(j.example, j.predicted) for j in found] == [(7, True), (8, False), (9, False), (10, False)]
    assert [j.probability for j in found] == pytest.approx([P_APPLE, P_PEAR, RATE, P_HOUSE])
    assert {(j.scorer, j.arm, j.explainer, j.source) for j in found} == {("token_baseline", "plain", "", "")}
