"""Figures as files: there, the same again, and telling their n."""

from __future__ import annotations

from dataclasses import replace

from outcrop.config import ReportConfig
from outcrop.report.plots import figure_files
from outcrop.report.summary import summarise
from outcrop.report.tables import Tables, read_tables
from outcrop.results import Results


def text_of(svg: bytes) -> str:
    """The comments in which matplotlib repeats each text that it draws as paths."""
    return svg.decode()


def test_every_figure_is_there_as_svg_and_png_and_says_its_n(summary: dict, tables: Tables) -> None:
    files = figure_files(summary, tables)
    names = {name.partition(".")[0] for name in files}
    assert names == {"ledger", "layers", "strata", "rate", "reliability_plain"}
    assert {name.partition(".")[2] for name in files} == {"svg", "png"}
    assert all(files[f"{name}.png"].startswith(b"\x89PNG") for name in names)
    assert all("n = " in text_of(files[f"{name}.svg"]) for name in names)
    assert "95% intervals" in text_of(files["strata.svg"])


def test_the_same_numbers_give_the_same_files(summary: dict, tables: Tables) -> None:
    assert figure_files(summary, tables) == figure_files(summary, tables)


def test_foreign_text_is_no_markup_and_no_formula(summary: dict, tables: Tables) -> None:
    hostile = "<script>alert(1)</script> $\\frac{1}{"
    coder = {**summary["reconstruction"][0], "label": hostile}
    svg = figure_files({**summary, "reconstruction": [coder]}, tables)["layers.svg"]
    assert b"<script" not in svg


def test_without_scores_there_are_only_the_figures_of_what_there_is() -> None:
    tables = read_tables(Results())
    assert figure_files(summarise(tables, [], ReportConfig()), tables) == {}


def test_bands_have_a_figure_of_their_labels(summary: dict, tables: Tables) -> None:
    bands = [{"explainer": "bands", "n": 3, "labels": {"clean": 2, "noise": 1}}]
    scores = {**summary["scores"], "bands": bands}
    assert "bands_bands.svg" in figure_files({**summary, "scores": scores}, replace(tables))
