"""The table of scorers, against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from outcrop.report.scorers import scorer_table
from outcrop.report.tables import read_tables
from outcrop.results import CoderRow, LatentRow, Results
from outcrop.types import (
    CoderKey,
    Example,
    Explanation,
    Failure,
    Hookpoint,
    Judgement,
    LatentExamples,
    LatentId,
    StratumShare,
    Window,
)

KEY = CoderKey("topk", Hookpoint("model.layers.3"), Hookpoint("model.layers.3"), 0)
LATENT = LatentId(KEY, 0)


def window(fires: bool) -> Window:
    return Window(np.zeros(2, int), np.array([float(fires), 0.0], np.float32), 0, 0, 0)


def examples() -> LatentExamples:
    """Two quantiles of two windows; three random windows (90%) and one with a trigger (10%)."""
    fires = [Example(i, i, "score", window(True), quantile=1 + i // 2) for i in range(4)]
    strata = ("random", "random", "random", "same_token")
    silent = [Example(4 + i, 4 + i, "score", window(False), stratum=stratum) for i, stratum in enumerate(strata)]
    shares = (StratumShare("same_token", 0.1, 10), StratumShare("random", 0.9, 90))
    return LatentExamples(LATENT, 0.01, 0.1, (), (*fires, *silent), shares)


def table(judgements: list[Judgement]) -> dict[tuple[str, str, str], float]:
    with Results() as results:
        row = LatentRow(LATENT, 0, 0, 9, 9, 0.01, 0.1, 1.0, 2.0, None, None, False, False, False, False, 1.0, None)
        results.add_coder(CoderRow(KEY, 1, 1, 2, 90, 0, 0, 104, 5), [row])
        results.add_examples([examples()])
        results.add_explanations([Explanation(LATENT, "contrastive", "all", "fruit", "")])
        results.add_judgements(judgements)
        rows = scorer_table(read_tables(results).scorers, 0.95)
    assert all(row["n"] in (0, 1) for row in rows)
    return {(row["scorer"], row["arm"], row["metric"]): row["value"] for row in rows}


def verdicts(scorer: str, said: list[bool], arm: str = "plain") -> list[Judgement]:
    return [Judgement(LATENT, scorer, arm, "contrastive", "all", i, None, yes) for i, yes in enumerate(said)]


def test_rates_are_weighted_over_quantiles_and_strata() -> None:
    found = table(verdicts("detection", [True, False, True, True, True, False, False, True]))
    assert found["detection", "plain", "informedness"] == pytest.approx(0.75 - (0.9 / 3 + 0.1))
    assert np.isnan(found["detection", "plain", "auroc"]), "there are no probabilities"


def test_arms_stand_apart() -> None:
    found = table(verdicts("detection", [True] * 4 + [False] * 4) + verdicts("detection", [True] * 8, "other"))
    assert found["detection", "plain", "informedness"] == 1
    assert found["detection", "other", "informedness"] == 0


def test_misplaced_marks_weigh_as_much_as_all_silent_windows() -> None:
    fuzzing = verdicts("fuzzing", [True] * 4 + [False] * 4)
    found = table(fuzzing + verdicts("misplaced", [True, True, True, False]))
    assert found["fuzzing", "plain", "informedness"] == pytest.approx(1 - 0.5 * 0.75)
    assert ("misplaced", "plain", "informedness") not in found


def test_without_misplaced_marks_fuzzing_has_no_score() -> None:
    failed = [replace(one, predicted=None, failure=Failure("timeout", "")) for one in verdicts("misplaced", [True] * 4)]
    for misplaced in ([], failed):
        found = table(verdicts("fuzzing", [True] * 4 + [False] * 4) + misplaced)
        assert np.isnan(found["fuzzing", "plain", "informedness"])


def test_what_failed_is_left_out_and_where_all_failed_there_is_no_score() -> None:
    lost = Judgement(LATENT, "intruder", "plain", "", "q1", 4, failure=Failure("timeout", ""))
    assert np.isnan(table([lost])["intruder", "plain", "above_chance"])
    won = Judgement(LATENT, "intruder", "plain", "", "q2", 5, None, True, measured=(5.0,))
    assert table([lost, won])["intruder", "plain", "above_chance"] == 1
    failed = Judgement(LATENT, "simulation", "plain", "contrastive", "all", 0, failure=Failure("unreadable", ""))
    assert np.isnan(table([failed])["simulation", "plain", "correlation"])


def test_a_stratum_that_nobody_judged_leaves_no_score() -> None:
    found = table(verdicts("detection", [True] * 4 + [False] * 3))
    assert np.isnan(found["detection", "plain", "informedness"])


def test_intruders_count_above_chance_over_all_quantiles() -> None:
    found = table(
        [
            Judgement(LATENT, "intruder", "plain", "", f"q{1 + i % 2}", 4 + i, None, right, measured=(5.0,))
            for i, right in enumerate([True, True, True, False])
        ]
    )
    assert found["intruder", "plain", "above_chance"] == pytest.approx((0.75 - 0.2) / 0.8)


def test_what_is_measured_is_ranked_or_correlated() -> None:
    def measured(scorer: str, values: list[tuple[float, ...]]) -> list[Judgement]:
        names = (LATENT, scorer, "plain", "contrastive", "all")
        return [Judgement(*names, i, measured=value) for i, value in enumerate(values)]

    cosines = measured("embedding", [(0.9,), (0.8,), (0.3,), (0.7,), (0.5,), (0.1,), (0.2,), (0.6,)])
    true, predicted = [1.0, 0.0, 0.5, 0.0], [0.8, 0.1, 0.9, 0.0]
    sums = [(1.0, a, p, a * a, p * p, a * p) for a, p in zip(true, predicted, strict=True)]
    found = table(cosines + measured("simulation", sums))
    wins_random = np.mean([np.mean([3 / 3, 3 / 3]), np.mean([2 / 3, 3 / 3])])
    wins_trigger = np.mean([np.mean([1, 1]), np.mean([0, 1])])
    assert found["embedding", "plain", "auroc"] == pytest.approx(0.9 * wins_random + 0.1 * wins_trigger)
    assert found["simulation", "plain", "correlation"] == pytest.approx(np.corrcoef(true, predicted)[0, 1])
