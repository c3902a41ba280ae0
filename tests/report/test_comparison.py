"""Two runs side by side, on the made-up run."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from outcrop.report.comparison import compare
from outcrop.report.console import console_comparison
from outcrop.report.tables import Tables, read_tables

from .conftest import KEY, Run
from .test_summary import copied

SAME = {str(KEY): str(KEY)}
OTHER = str(replace(KEY, setting="other", seed=3))


@pytest.fixture(scope="module")
def worse(run: Run) -> Tables:
    """The same run with a judge that says the opposite of latent 3, and nothing of latent 7."""
    other = copied(run)
    plain = "scorer = 'detection' AND arm = 'plain'"
    other._db.execute(f"UPDATE judgements SET predicted = 1 - predicted WHERE latent = 3 AND {plain}")
    other._db.execute(f"DELETE FROM judgements WHERE latent = 7 AND {plain}")
    return read_tables(other)


def test_a_run_does_not_differ_from_itself(tables: Tables) -> None:
    (pair,) = compare(tables, tables, same_coders=SAME, confidence=0.95)["explainers"]
    assert all(of["difference"]["value"] == 0 for of in pair["metrics"].values())
    assert (pair["only_first"], pair["only_second"], pair["moved"]) == (0, 0, [])


def test_latents_are_compared_one_by_one_and_those_of_one_run_are_counted(tables: Tables, worse: Tables) -> None:
    (pair,) = compare(tables, worse, same_coders=SAME, confidence=0.95)["explainers"]
    accuracy = pair["metrics"]["balanced_accuracy"]
    mine, other = (of.scores.arms["explanation"]["balanced_accuracy"].estimate.value for of in (tables, worse))
    latents = tables.scores.about["latent"]
    both = ~np.isnan(mine) & ~np.isnan(other) & (latents != 7)
    assert accuracy["n"] == 5
    assert accuracy["difference"]["value"] == pytest.approx(np.mean((other - mine)[both]))
    assert (pair["only_first"], pair["only_second"]) == (1, 0)
    (moved,) = pair["moved"]
    assert moved["latent"] == 3 and moved["difference"] < -0.5
    assert moved["first"]["text"].startswith("dogs at the park")
    assert moved["apart"] and pair["n_apart"] == 1


def test_those_that_may_have_moved_by_chance_follow_those_that_are_apart(run: Run, tables: Tables) -> None:
    other = copied(run)
    plain = "scorer = 'detection' AND arm = 'plain'"
    other._db.execute(f"UPDATE judgements SET predicted = 1 - predicted WHERE latent = 3 AND {plain}")
    one = f"SELECT MIN(example) FROM judgements WHERE latent = 7 AND {plain}"
    other._db.execute(
        f"UPDATE judgements SET predicted = 1 - predicted WHERE latent = 7 AND {plain} AND example = ({one})"
    )
    (pair,) = compare(tables, read_tables(other), same_coders=SAME, confidence=0.95)["explainers"]
    assert [(one["latent"], one["apart"]) for one in pair["moved"]] == [(3, True), (7, False)]
    assert pair["n_apart"] == 1 and pair["moved"][1]["difference"] != 0


def test_a_coder_of_another_name_is_paired_and_the_latents_of_one_run_alone_are_counted(tables: Tables) -> None:
    about = tables.scores.about | {"coder": np.full_like(tables.scores.about["coder"], OTHER)}
    renamed = replace(tables, scores=replace(tables.scores, about=about))
    comparison = compare(tables, renamed, same_coders={str(KEY): OTHER}, confidence=0.95)
    (pair,) = comparison["explainers"]
    assert comparison["coders"] == [{"first": str(KEY), "second": OTHER}]
    assert pair["metrics"]["balanced_accuracy"]["n"] == int(tables.scores.scored.sum())
    (apart,) = compare(tables, renamed, same_coders={"absent": OTHER}, confidence=0.95)["explainers"]
    assert apart["metrics"]["balanced_accuracy"]["n"] == 0
    assert (apart["only_first"], apart["only_second"]) == (0, int(tables.scores.scored.sum()))  # of coders compared


def test_over_other_coders_populations_are_compared(tables: Tables, worse: Tables) -> None:
    comparison = compare(tables, worse, same_coders={}, confidence=0.95)
    (pair,) = comparison["explainers"]
    assert not comparison["paired"] and pair["moved"] == [] and pair["only_first"] is None
    assert pair["metrics"]["balanced_accuracy"]["first"] == pytest.approx(
        np.nanmean(tables.scores.arms["explanation"]["balanced_accuracy"].estimate.value[tables.scores.scored])
    )


@pytest.mark.parametrize("same", [SAME, {}])
def test_the_console_says_how_they_were_compared(tables: Tables, worse: Tables, same: dict[str, str]) -> None:
    stream = io.StringIO()
    comparison = compare(tables, worse, same_coders=same, confidence=0.95)
    Console(file=stream, width=150).print(console_comparison(comparison, ("runs/a", "runs/b")))
    told = " ".join(stream.getvalue().split())
    assert ("latent by latent" if same else "the coders differ") in told
    assert "runs/a, contrastive" in told and "balanced accuracy" in told
