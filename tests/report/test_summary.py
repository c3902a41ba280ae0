"""The numbers of a report, against the database they were taken from."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from outcrop.config import ReportConfig, Where
from outcrop.report.summary import scores_of, summarise
from outcrop.report.tables import Tables, load_tables, read_tables, save_tables
from outcrop.results import Results
from outcrop.schema import STATUSES

from .conftest import KEY, N_LAYERS, N_TOKENS, PER_LAYER, Run, copied


def arms(tables: Tables, latent: int) -> dict:
    (row,) = np.flatnonzero(tables.scores.about["latent"] == latent)
    return scores_of(tables.scores, int(row))


def scored(tables: Tables) -> list[dict]:
    return [scores_of(tables.scores, int(row)) for row in np.flatnonzero(tables.scores.scored)]


def test_the_ledger_adds_up_to_the_latents_as_in_the_database(run: Run, summary: dict) -> None:
    ledger = summary["ledger"]
    status = run.results.columns("SELECT status FROM ledger")["status"]
    assert ledger["counts"] == {name: int((status == name).sum()) for name in STATUSES}
    assert sum(ledger["counts"].values()) == ledger["n_latents"] == N_LAYERS * PER_LAYER
    assert all(ledger["counts"].values()), "the made-up run should show every status"
    coder = ledger["coders"][0]
    assert coder["counts"] == ledger["counts"]
    for status in STATUSES:
        assert sum(layer["counts"][status] for layer in coder["layers"]) == coder["counts"][status]


def test_a_coder_none_of_whose_latents_is_asked_for_is_left_out(run: Run) -> None:
    two, other = copied(run), replace(KEY, seed=1)
    for table in ("coders", "latents"):
        columns = ", ".join(name for name in two.columns(f"SELECT * FROM {table}") if name != "coder")
        two._db.execute(f"INSERT INTO {table} SELECT '{other}', {columns} FROM {table}")
    two._db.execute("UPDATE latents SET dense = coder = ?", (str(other),))
    reconstructions = [replace(r, coder=coder) for r in run.reconstructions for coder in (KEY, other)]
    found = summarise(read_tables(two), reconstructions, ReportConfig(), Where(flags=("dense",)))
    assert found["ledger"]["n_latents"] == N_LAYERS * PER_LAYER
    for part in (found["ledger"]["coders"], found["corpus"], found["reconstruction"]):
        assert {entry["coder"] for entry in part} == {str(other)}


def test_text_of_which_there_is_none_is_still_text_in_the_tables(run: Run, tmp_path: Path) -> None:
    well = copied(run)
    failed = "SELECT coder, latent FROM ledger WHERE status = 'failed'"
    well._db.execute(f"DELETE FROM latents WHERE (coder, latent) IN ({failed})")
    save_tables(read_tables(well), tmp_path)
    schema = pq.read_schema(tmp_path / "latents.parquet")
    assert {str(schema.field(name).type) for name in ("status", "stage", "reason")} == {"string"}
    assert load_tables(tmp_path).latents["reason"].tolist() == [None] * len(read_tables(well).latents["latent"])


def test_failures_are_counted_by_stage_and_kind(summary: dict) -> None:
    ledger = summary["ledger"]
    assert [(f["stage"], f["kind"], f["n"]) for f in ledger["failures"]] == [
        ("explain", "timeout", 1),
        ("score", "unreadable", 1),
    ]
    assert sum(f["n"] for f in ledger["failures"]) == ledger["counts"]["failed"]


def test_failed_judgements_are_counted_and_no_score_counts_them(run: Run, summary: dict, tables: Tables) -> None:
    failed = summary["ledger"]["failed_judgements"]
    assert failed["n_failed"] == sum(kind["n"] for kind in failed["kinds"]) > 0
    query = "SELECT COUNT(predicted) AS n FROM judgements WHERE latent = 12 AND scorer = 'detection' AND arm = 'plain'"
    n = int(run.results.columns(query)["n"][0])
    assert n < 50
    assert arms(tables, 12)["explanation"]["balanced_accuracy"]["n"] == n


def test_rates_are_weighted_as_stated(run: Run, summary: dict, tables: Tables) -> None:
    query = """
    SELECT e.quantile, e.stratum, AVG(j.predicted) AS rate
    FROM judgements j JOIN examples e USING (coder, latent, example)
    WHERE latent = 22 AND scorer = 'detection' AND arm = 'plain' AND predicted IS NOT NULL GROUP BY 1, 2
    """
    table = run.results.columns(query)
    stratum = dict(zip(table["stratum"], table["rate"], strict=True))
    scores = arms(tables, 22)["explanation"]
    assert scores["tpr"]["value"] == pytest.approx(table["rate"][~np.isnan(table["quantile"].astype(float))].mean())
    fpr = 0.02 * stratum["same_token"] + 0.98 * stratum["random"]
    assert scores["fpr"]["value"] == pytest.approx(fpr)
    assert scores["balanced_accuracy"]["value"] == pytest.approx((scores["tpr"]["value"] + 1 - fpr) / 2)
    illusion = stratum["same_token"] - stratum["random"]
    assert scores["token_illusion"]["value"] == pytest.approx(illusion)


def test_auroc_agrees_with_the_rank_sum_where_all_strata_weigh_alike(run: Run, summary: dict, tables: Tables) -> None:
    """Latent 17 has one non-activating stratum and as many windows in each quantile."""
    query = """
    SELECT e.quantile, j.probability FROM judgements j JOIN examples e USING (coder, latent, example)
    WHERE latent = 17 AND scorer = 'detection' AND arm = 'none'
    """
    table = run.results.columns(query)
    fires = ~np.isnan(table["quantile"].astype(float))
    up, down = table["probability"][fires], table["probability"][~fires]
    expected = stats.mannwhitneyu(up, down).statistic / (len(up) * len(down))
    assert arms(tables, 17)["no_explanation"]["auroc"]["value"] == pytest.approx(expected)


def test_what_no_same_token_window_can_tell_is_missing_and_the_rest_is_there(summary: dict, tables: Tables) -> None:
    scores = arms(tables, 17)["explanation"]
    for metric in ("token_illusion", "fpr_same_token", "balanced_accuracy_same_token"):
        assert scores[metric]["value"] is None
        assert scores[metric]["low"] is None
    assert scores["fpr"]["value"] is not None


def test_windows_shown_to_the_explainer_count_for_nothing(run: Run, summary: dict, tables: Tables) -> None:
    moved = copied(run)
    moved._db.execute(
        "INSERT INTO judgements SELECT coder, latent, 'detection', 'plain', 'contrastive', 'all', example, "
        "0.5, 0, NULL, NULL, NULL, NULL FROM examples WHERE split = 'explain' AND latent = 7"
    )
    assert arms(read_tables(moved), 7) == arms(tables, 7)


def test_each_scored_latent_counts_once_in_the_macro_mean(summary: dict, tables: Tables) -> None:
    overall = summary["scores"]["aggregates"][0]
    values = [one["explanation"]["balanced_accuracy"]["value"] for one in scored(tables)]
    mean = overall["macro"]["explanation"]["balanced_accuracy"]
    assert mean["n"] == overall["n_scored"] == len(values) == summary["ledger"]["counts"]["scored"]
    assert mean["value"] == pytest.approx(np.mean(values))
    assert mean["low"] < mean["value"] < mean["high"]
    skill = overall["macro"]["explanation"]["accuracy_skill"]
    assert skill["statistic"] == "median"
    assert overall["macro"]["explanation"]["token_illusion"]["n"] == len(values) - 1


def test_the_correction_for_the_control_is_averaged_by_its_median(summary: dict, tables: Tables) -> None:
    """It is unbounded below: near a perfect control one latent would outweigh all others."""
    corrected = summary["scores"]["aggregates"][0]["macro"]["explanation"]["chance_corrected"]
    values = [one["explanation"]["chance_corrected"]["value"] for one in scored(tables)]
    assert (corrected["statistic"], corrected["n"]) == ("median", len(values))
    assert corrected["value"] == pytest.approx(np.median(values))


def test_a_layer_and_a_coder_whose_selected_latents_all_failed_keep_their_entry(run: Run) -> None:
    failed = copied(run)
    failed._db.execute("DELETE FROM judgements WHERE latent >= 28 AND arm = 'plain' AND scorer = 'detection'")
    groups = entries(summarise(read_tables(failed), run.reconstructions, ReportConfig()))
    assert groups[str(KEY), 2] == (0, 4)
    assert groups[None, None] == groups[str(KEY), None] == (5, 4)
    failed._db.execute("DELETE FROM judgements")
    groups = entries(summarise(read_tables(failed), run.reconstructions, ReportConfig()))
    assert groups[None, None] == groups[str(KEY), None] == (0, 9)
    assert [groups[str(KEY), layer] for layer in range(N_LAYERS)] == [(0, 3), (0, 2), (0, 4)]
    assert len(groups) == 2 + N_LAYERS


def test_matryoshka_prefixes_are_averaged_apart_within_their_layer(run: Run) -> None:
    nested = copied(run)
    nested._db.execute("UPDATE latents SET prefix = CASE WHEN latent IN (3, 7) THEN 0 ELSE 1 END WHERE layer = 0")
    tables = read_tables(nested)
    aggregates = summarise(tables, [], ReportConfig())["scores"]["aggregates"]
    found = {a["prefix"]: a for a in aggregates if a["layer"] == 0 and a["prefix"] is not None}
    assert {prefix: a["n_scored"] for prefix, a in found.items()} == {0: 2, 1: 1}
    values = [arms(tables, latent)["explanation"]["tpr"]["value"] for latent in (3, 7)]
    assert found[0]["macro"]["explanation"]["tpr"]["value"] == pytest.approx(np.mean(values))
    assert all(a["prefix"] is None for a in aggregates if a["layer"] != 0), "a lone prefix is no group of its own"


def entries(summary: dict) -> dict:
    return {(a["coder"], a["layer"]): (a["n_scored"], a["n_unscored"]) for a in summary["scores"]["aggregates"]}


def test_the_weighted_mean_divides_the_firing_rate_by_the_chance_of_selection(summary: dict, tables: Tables) -> None:
    weighted = summary["scores"]["aggregates"][0]["weighted"]["firing_rate"]
    rates = tables.scores.about["firing_rate"][tables.scores.scored]  # all were selected with the same probability
    values = np.array([one["explanation"]["tpr"]["value"] for one in scored(tables)])
    assert weighted["explanation"]["tpr"]["value"] == pytest.approx(np.sum(rates * values) / rates.sum())
    assert weighted["n_effective"] == pytest.approx(rates.sum() ** 2 / np.sum(rates**2))


def test_unscored_latents_at_chance_and_at_best_embrace_those_left_out(summary: dict) -> None:
    overall = summary["scores"]["aggregates"][0]
    versions = overall["unscored"]["balanced_accuracy"]
    assert overall["n_unscored"] == 3
    assert versions["at_chance"]["n"] == versions["at_best"]["n"] == versions["left_out"]["n"] + 3 == 9
    assert versions["at_chance"]["value"] < versions["left_out"]["value"] < versions["at_best"]["value"]


def test_unscored_latents_weigh_what_they_weigh(summary: dict, tables: Tables) -> None:
    selected, scored_ones = tables.latents["selection_probability"] > 0, tables.scores.about["latent"]
    rate = tables.latents["firing_rate"] * selected
    left = ~np.isin(tables.latents["latent"], scored_ones[tables.scores.scored])
    weighted = summary["scores"]["aggregates"][0]["weighted"]["firing_rate"]
    without = weighted["explanation"]["balanced_accuracy"]["value"]
    versions = weighted["unscored"]["balanced_accuracy"]
    assert versions["left_out"]["value"] == pytest.approx(without)
    for version, value in (("at_chance", 0.5), ("at_best", 1.0)):
        expected = (rate[~left].sum() * without + rate[left].sum() * value) / rate.sum()
        assert versions[version]["value"] == pytest.approx(expected)


def test_a_control_that_was_not_asked_is_missing(run: Run) -> None:
    without = copied(run)
    without._db.execute("DELETE FROM judgements WHERE arm = 'none'")
    tables = read_tables(without)
    control = summarise(tables, [], ReportConfig())["scores"]["aggregates"][0]["macro"]["no_explanation"]["tpr"]
    assert (control["value"], control["low"], control["n"]) == (None, None, 0)
    assert arms(tables, 7)["explanation"]["chance_corrected"]["value"] is None
    assert arms(tables, 7)["explanation"]["tpr"]["value"] is not None


def test_histograms_hold_every_latent_that_fired(summary: dict) -> None:
    assert [h["layer"] for h in summary["firing_rates"]] == [0, 1, 2]
    for histogram in summary["firing_rates"]:
        assert sum(histogram["counts"]) + histogram["n_unfired"] == histogram["n_latents"] == PER_LAYER
        assert histogram["n_tokens"] == N_TOKENS


def test_reconstruction_is_told_per_layer_with_what_the_coder_costs(summary: dict) -> None:
    table = summary["reconstruction"][0]
    assert table["coder"] == str(KEY)
    assert [layer["fvu"] for layer in table["layers"]] == [0.31, 0.22, 0.18]
    assert table["cross_entropy"]["delta"] == pytest.approx(0.13)
    assert table["cross_entropy"]["recovered"] == pytest.approx((8.9 - 3.34) / (8.9 - 3.21))


def test_the_summary_is_plain_json_and_repeats(run: Run, summary: dict) -> None:
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summarise(read_tables(run.results), run.reconstructions, ReportConfig()) == summary


def test_the_summary_fits_its_schema(run: Run, summary: dict) -> None:
    schema = json.loads((resources.files("outcrop") / "report" / "summary.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(summary, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**summary, "version": 1}, schema)


def test_an_empty_database_has_an_empty_summary() -> None:
    summary = summarise(read_tables(Results()), [], ReportConfig())
    assert summary["ledger"]["n_latents"] == sum(summary["ledger"]["counts"].values()) == 0
    assert summary["scores"]["aggregates"][0]["macro"]["explanation"]["tpr"]["value"] is None


def test_only_a_failed_latent_has_a_stage_and_a_reason(run: Run) -> None:
    rows = run.results.rows("ledger")
    assert {status for *_, status, _, _ in rows} == {*STATUSES}
    for *_, status, stage, reason in rows:
        assert (stage is not None) == (reason is not None) == (status == "failed")


def test_a_selected_latent_that_nothing_explains_has_failed(run: Run) -> None:
    left = copied(run)
    left._db.execute("DELETE FROM explanations WHERE latent IN (7, 39)")
    left._db.execute("DELETE FROM judgements WHERE latent IN (7, 39)")
    found = {latent: rest for _, latent, _, *rest in left.rows("ledger")}
    assert found[7] == found[39] == ["failed", "explain", "input: nothing explains it"]
    left._db.execute("DELETE FROM explanations")
    assert {latent: rest for _, latent, _, *rest in left.rows("ledger")}[7] == ["not selected", None, None]
