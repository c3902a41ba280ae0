"""The report for the terminal: ledger, reconstruction and scores in three small tables."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from outcrop.report.figures import ARM_NAMES
from outcrop.report.text import count, interval, number, percent, visible

_SHOWN = {
    "balanced_accuracy": "balanced accuracy",
    "balanced_accuracy_same_token": "… against same-token windows",
    "auroc": "AUROC",
    "true_accuracy": "true accuracy",
    "accuracy_skill": "accuracy skill (median)",
    "token_illusion": "token illusion",
    "beyond_tokens": "beyond tokens",
}


def console_summary(summary: dict[str, Any]) -> RenderableType:
    """Everything foreign is shown as plain text, never read as rich's markup."""
    return Group(_ledger(summary["ledger"]), _reconstruction(summary["reconstruction"]), _scores(summary))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", header_style="dim")
    return table


def _name(text: str) -> Text:
    return Text(visible(text, 60))


def _ledger(ledger: dict[str, Any]) -> Table:
    table = _table("\nLedger", "latents", *ledger["counts"], "together")
    for coder in ledger["coders"]:
        table.add_row(_name(coder["label"]), *map(count, coder["counts"].values()), count(coder["n_latents"]))
    if len(ledger["coders"]) != 1:
        table.add_row("together", *map(count, ledger["counts"].values()), count(ledger["n_latents"]))
    failed = ledger["failed_judgements"]
    if failed["n_failed"]:
        table.caption = f"{count(failed['n_failed'])} of {count(failed['n_judgements'])} judgements failed"
    return table


def _reconstruction(reconstructions: list[dict[str, Any]]) -> Table:
    table = _table("\nReconstruction", "held out", "FVU", "L0", "dead", "unfired", "CE recovered", "ΔCE", "KL")
    for r in reconstructions:
        ce = r["cross_entropy"]
        cross_entropy = (percent(ce["recovered"]), number(ce["delta"]), number(ce["kl"]))
        shares = ("", "") if len(r["layers"]) > 1 else _shares(r["layers"][0])
        table.add_row(_name(r["label"]), number(r["fvu"]), number(r["l0"]), *shares, *cross_entropy)
        if len(r["layers"]) > 1:
            for layer in r["layers"]:
                table.add_row(f"  layer {layer['layer']}", number(layer["fvu"]), number(layer["l0"]), *_shares(layer))
    return table


def _shares(layer: dict[str, Any]) -> tuple[str, str]:
    return percent(layer["dead_share"]), percent(layer["unfired_share"])


def _scores(summary: dict[str, Any]) -> RenderableType:
    overall = summary["scores"]["aggregates"][0]
    if not overall["n_scored"]:
        return Text("\nNo latent was scored.")
    table = _table(f"\nScores, mean over {count(overall['n_scored'])} scored latents", "", *ARM_NAMES.values())
    for metric, name in _SHOWN.items():
        table.add_row(name, *(_cell(overall["macro"][arm].get(metric)) for arm in ARM_NAMES))
    left = overall["n_unscored"]
    table.caption = f"{100 * summary['confidence']:g}% intervals" + (
        f"; {count(left)} selected latents have no score and are left out" if left else ""
    )
    return table


def _cell(estimate: dict[str, Any] | None) -> Text:
    if estimate is None or estimate["value"] is None:
        return Text("—", style="dim")
    return Text.assemble(number(estimate["value"]), (f" {interval(estimate)}", "dim"))
