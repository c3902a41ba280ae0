"""The table of all latents, and the addresses of its views."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcrop.dashboard.latents import LatentTable
from outcrop.dashboard.view import FLAGS, View
from outcrop.errors import ConfigError
from outcrop.report.tables import Tables
from outcrop.schema import STATUSES

bounds = st.none() | st.floats(0, 1)
views = st.builds(
    View,
    coder=st.text(),
    layer=st.none() | st.integers(0, 99),
    status=st.lists(st.sampled_from(STATUSES), unique=True).map(tuple),
    flag=st.lists(st.sampled_from(FLAGS), unique=True).map(tuple),
    least_rate=bounds,
    most=bounds,
    words=st.text(),
    sort=st.text(min_size=1),
    ascending=st.booleans(),
    page=st.integers(1, 10**6),
    size=st.integers(1, 1_000),
)


@pytest.fixture(scope="module")
def table(tables: Tables) -> LatentTable:
    return LatentTable.of(tables, "contrastive", "all")


@given(views)
def test_a_view_comes_back_from_its_address(view: View) -> None:
    assert View.of(parse_qs(view.query(), keep_blank_values=True)) == view


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("layer=two", "layer is 'two'; expected a number"),
        ("least_rate=nan", "least_rate is 'nan'; expected a number"),
        ("status=lost", "status is lost; expected some of"),
        ("flag=odd", "flag is odd"),
        ("page=0", "page 0 of 100 rows"),
        ("size=100000", "100000 rows"),
        ("colour=red", "there is no filter 'colour'"),
    ],
)
def test_an_address_that_cannot_be_read_is_told(query: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        View.of(parse_qs(query))


def test_every_latent_is_there_and_the_best_come_first(table: LatentTable, tables: Tables) -> None:
    page = table.page(View())
    assert page.n == len(table) == len(tables.latents["latent"])
    scores = [row["balanced_accuracy"] for row in page.rows]
    known = [score for score in scores if score is not None]
    assert known == sorted(known, reverse=True) and len(known) == int(tables.scores.scored.sum())
    assert scores[len(known) :] == [None] * (len(scores) - len(known))


def test_missing_scores_come_last_in_either_direction(table: LatentTable) -> None:
    rows = table.page(View(ascending=True)).rows
    known = [row["balanced_accuracy"] for row in rows if row["balanced_accuracy"] is not None]
    assert known == sorted(known)
    assert [row["balanced_accuracy"] is None for row in rows] == sorted(
        row["balanced_accuracy"] is None for row in rows
    )


def test_the_statuses_and_the_layers_split_the_table(table: LatentTable) -> None:
    assert sum(table.page(View(status=(status,))).n for status in STATUSES) == len(table)
    assert sum(table.page(View(layer=layer)).n for layer in table.layers) == len(table)
    assert table.page(View(status=STATUSES)).n == len(table)


def test_words_are_found_in_explanations_whatever_their_case(table: LatentTable) -> None:
    rows = table.page(View(words="DOGS at")).rows
    assert rows and all("dogs at" in row["text"].lower() for row in rows)
    assert {row["latent"] for row in table.page(View(words="3")).rows if "3" not in (row["text"] or "")} == {3}
    assert table.page(View(words=".*")).n == 0, "what is looked for is no pattern"


def test_bounds_keep_what_lies_between_them(table: LatentTable) -> None:
    rows = table.page(View(sort="firing_rate", least_rate=1e-4, most_rate=2e-3, least=5e-4)).rows
    assert rows and all(5e-4 <= row["firing_rate"] <= 2e-3 for row in rows)
    assert all(row["balanced_accuracy"] >= 0.6 for row in table.page(View(least=0.6)).rows)


def test_any_score_of_the_explanations_can_be_sorted_by_and_then_stands_in_the_table(table: LatentTable) -> None:
    view = View(sort="fpr_random")
    values = [row["fpr_random"] for row in table.page(view).rows if row["fpr_random"] is not None]
    assert values and values == sorted(values, reverse=True)
    assert set(table.shown(view)) - set(table.shown(View())) == {"fpr_random"}
    assert "fpr_random.low" in table.table(view).column_names
    assert "fpr_random" not in table.table(View()).column_names, "whatever was asked for before"
    other = View(sort="tpr", least=2.0)  # of which nothing was asked before
    assert not table.holds(0, other)
    with pytest.raises(ConfigError, match="there is no colour here to sort by"):
        table.page(View(sort="colour"))


def test_what_a_scorer_says_of_the_windows_stands_beside_every_explanation(tables: Tables) -> None:
    """The intruder scorer is told no explanation."""
    coder, latent = tables.scores.about["coder"][0], tables.scores.about["latent"][0]
    about = {"scorer": "intruder", "arm": "plain", "metric": "above_chance", "explainer": "", "source": ""}
    planted = about | {"coder": coder, "latent": latent, "value": 0.25, "low": np.nan, "high": np.nan, "n": 4}
    tables = replace(tables, scorers={name: np.array([value], dtype=object) for name, value in planted.items()})
    for explainer in ("contrastive", "nobody"):
        table = LatentTable.of(tables, explainer, "all")
        (row,) = table.page(View(sort="intruder", least=0.0)).rows
        assert (row["coder"], row["latent"], row["intruder"], row["intruder.n"]) == (coder, latent, 0.25, 4)


def test_pages_are_the_whole_in_pieces(table: LatentTable) -> None:
    view = View(size=5)
    pieces = [table.page(View(size=5, page=page + 1)).rows for page in range(table.page(view).n_pages)]
    assert [row["latent"] for piece in pieces for row in piece] == [row["latent"] for row in table.page(View()).rows]
    assert table.page(View(size=5, page=999)) == table.page(View(size=5, page=len(pieces)))


def test_what_is_exported_are_the_rows_of_the_view(table: LatentTable) -> None:
    view = View(status=("scored",), sort="firing_rate")
    exported = table.table(view)
    assert exported["latent"].to_pylist() == [row["latent"] for row in table.page(view).rows]
    assert exported["text"].null_count == 0
    missing = table.table(View(status=("not selected",)))["balanced_accuracy"]
    assert missing.null_count == len(missing) > 0


def test_neighbours_are_those_by_number_of_the_same_coder_or_those_of_a_view(table: LatentTable) -> None:
    coder = table.columns["coder"] == table.coders[0]
    numbered = np.flatnonzero(coder)[np.argsort(table.columns["latent"][coder])].tolist()
    assert table.around(numbered[0]) == (None, numbered[1])
    assert table.around(numbered[-1]) == (numbered[-2], None)
    view = View(status=("scored",), sort="firing_rate")
    chosen = table.chosen(view).tolist()
    assert table.around(chosen[1], view) == (chosen[0], chosen[2])
    outside = next(row for row in range(len(table)) if row not in chosen)
    assert table.around(outside, view) == (None, None)
