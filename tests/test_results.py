"""The ledger that is derived from the tables, and rows that come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outcrop.config import ReportConfig
from outcrop.errors import CorruptError
from outcrop.report.summary import summarise
from outcrop.report.tables import read_tables
from outcrop.results import CoderRow, LatentRow, Results
from outcrop.schema import DETECTION
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

KEY = CoderKey("topk", Hookpoint("h.0"), Hookpoint("h.0"), 0)
LATENT = LatentId(KEY, 0)
UNREADABLE = Failure("unreadable", "neither yes nor no but 'Perhaps'")


def example(index: int, *, activating: bool) -> Example:
    window = Window(np.array([1]), np.array([float(activating)], np.float32), 0, 0, index)
    return Example(index, index, "score", window, 1 if activating else None, None if activating else "random")


def tabulated(*judged: tuple[bool, bool | Failure]) -> Results:
    """One explained latent whose scored windows are (activating, prediction or failure)."""
    results = Results()
    row = LatentRow(LATENT, 0, 0, 9, 9, 0.1, 0.2, 1.0, 2.0, None, None, False, False, False, False, 0.5, None)
    results.add_coder(CoderRow(KEY, 1, 1, 8, 90, 1, 2, 10, 5), [row])
    score = tuple(example(i, activating=activating) for i, (activating, _) in enumerate(judged))
    results.add_examples([LatentExamples(LATENT, 0.1, 0.2, (), score, (StratumShare("random", 1.0, 8),))])
    results.add_explanations([Explanation(LATENT, "contrastive", "all", "fruit", "hash")])
    results.add_judgements(
        Judgement(LATENT, DETECTION, "plain", "contrastive", "all", i, failure=answer)
        if isinstance(answer, Failure)
        else Judgement(LATENT, DETECTION, "plain", "contrastive", "all", i, 0.7, answer, "hash")
        for i, (_, answer) in enumerate(judged)
    )
    return results


def ledger(results: Results) -> list[tuple[object, ...]]:
    return [(status, stage, reason) for *_, status, stage, reason in results.rows("ledger")]


def test_rows_stand_in_the_order_of_their_columns() -> None:
    results = tabulated((True, True), (False, UNREADABLE))
    assert results.rows("coders") == [(str(KEY), 1, 1, 8, 90, 1, 2, 10, 5)]
    assert results.rows("latents") == [(str(KEY), 0, 0, 0, 9, 9, 0.1, 0.2, 1.0, 2.0, None, None, 0, 0, 0, 0, 0.5, None)]
    assert results.rows("strata") == [(str(KEY), 0, "random", 1.0, 8, None)]
    assert results.explanations() == [Explanation(LATENT, "contrastive", "all", "fruit", "hash")]
    first, second = results.rows("judgements")
    assert first[2:] == ("detection", "plain", "contrastive", "all", 0, 0.7, 1, "hash", None, None, None)
    assert second[6:] == (1, None, None, None, "unreadable", UNREADABLE.detail, None)


@pytest.mark.parametrize(
    ("judged", "entry"),
    [
        ([(True, True), (False, False)], ("scored", None, None)),
        ([(True, True), (False, UNREADABLE)], ("failed", "score", str(UNREADABLE))),
        ([(True, True)], ("failed", "score", "input: there is no non-activating window to judge")),
        ([(True, True), (True, UNREADABLE)], ("failed", "score", "input: there is no non-activating window to judge")),
        ([(False, False)], ("failed", "score", "input: there is no activating window to judge")),
        ([], ("explained only", None, None)),
    ],
)
def test_every_failed_latent_has_its_stage_and_reason(
    judged: list[tuple[bool, bool | Failure]], entry: tuple[object, ...]
) -> None:
    assert ledger(tabulated(*judged)) == [entry]


def test_a_latent_without_a_window_to_judge_is_counted_by_that_reason() -> None:
    """As with --examples.score-random 0 and a diffuse latent, which has no same-token windows either."""
    failures = summarise(read_tables(tabulated((True, True))), [], ReportConfig())["ledger"]["failures"]
    assert [(f["stage"], f["kind"], f["n"]) for f in failures] == [("score", "input", 1)]
    assert failures[0]["example"].endswith("no non-activating window to judge")


def test_a_database_of_any_name_is_read_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "what? #1 100%.sqlite"
    with Results(path) as results:
        results.clear("judgements")
    with Results(path, read_only=True) as results:
        assert results.changes == 1
    assert [*tmp_path.iterdir()] == [path]


def test_a_database_that_is_missing_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="where the results should be"):
        Results(tmp_path / "results.sqlite", read_only=True)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("select", "text", "kind", "values"),
    [
        ("1 AS a UNION ALL SELECT 2", [], np.int64, [1, 2]),
        ("0.5 AS a UNION ALL SELECT 2", [], np.float64, [0.5, 2.0]),
        ("1 AS a UNION ALL SELECT NULL", [], np.float64, [1.0, np.nan]),
        ("'x' AS a UNION ALL SELECT NULL", [], np.object_, ["x", None]),
        ("NULL AS a", [], np.float64, [np.nan]),
        ("NULL AS a", ["a"], np.object_, [None]),
        ("NULL AS a WHERE FALSE", ["a"], np.object_, []),
    ],
)
def test_columns_are_of_what_stands_in_them(select: str, text: list[str], kind: type, values: list[object]) -> None:
    with Results() as results:
        found = results.columns(f"SELECT {select}", text=text)["a"]
    assert found.dtype == kind
    np.testing.assert_array_equal(found, np.array(values, dtype=kind))


def test_a_column_of_text_that_is_not_there_is_told() -> None:
    with Results() as results, pytest.raises(ValueError, match="colour is no column of the result; there are a"):
        results.columns("SELECT 1 AS a", text=["a", "colour"])
