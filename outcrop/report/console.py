"""The report for the terminal, in small tables: ledger, reconstruction, scores, and what else was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from outcrop.config import JudgeConfig, Statistic
from outcrop.interp.clients.counting import CountingClient
from outcrop.report.cells import estimate_cell
from outcrop.report.comparison import METRICS
from outcrop.report.figures import judged_arms
from outcrop.report.ledger import coder_label
from outcrop.report.scorers import SCORER_ARMS, SCORER_METRICS, scorer_rows
from outcrop.report.text import count, explained_by, number, percent, visible
from outcrop.types import UNANSWERED

_SHOWN = {
    "balanced_accuracy": "balanced accuracy",
    "balanced_accuracy_same_token": "… against same-token windows",
    "auroc": "AUROC",
    "true_accuracy": "true accuracy",
    "true_accuracy_calibrated": "… by the calibrated judge",
    "accuracy_skill": "accuracy skill (median)",
    "token_illusion": "token illusion",
    "beyond_tokens": "beyond tokens",
    "beyond_tokens_same_token": "… against same-token windows",
}


def console_summary(summary: dict[str, Any]) -> RenderableType:
    """Everything foreign is shown as plain text, never read as rich's markup."""
    scores = (_scores(summary), _scorers(summary["scores"]["scorers"], summary["scores"]["aggregates"][0]["n_scored"]))
    more = filter(None, (_perfect(summary), _calibration(summary), _bands(summary)))
    return Group(_ledger(summary), console_reconstruction(summary["reconstruction"]), *scores, *more)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", header_style="dim", overflow="fold")
    return table


def _name(text: str) -> Text:
    return Text(visible(text, 60))


def _ledger(summary: dict[str, Any]) -> Table:
    ledger = summary["ledger"]
    shown = [status for status, n in ledger["counts"].items() if n]
    some = f" of the latents with {visible(summary['where'], 60)} alone" if summary["where"] else ""
    table = _table(f"\nLedger{some}", "latents", *shown, "together")
    for coder in ledger["coders"]:
        counts = (count(coder["counts"][status]) for status in shown)
        table.add_row(_name(coder["label"]), *counts, count(coder["n_latents"]))
    if len(ledger["coders"]) != 1:
        counts = (count(ledger["counts"][status]) for status in shown)
        table.add_row("together", *counts, count(ledger["n_latents"]))
    n_tokens = [coder["n_tokens"] for coder in summary["corpus"]]
    notes = [f"unfired: on none of {_range(n_tokens)} tokens"] if n_tokens else []
    failed = ledger["failed_judgements"]
    if failed["n_failed"]:
        notes.append(f"{count(failed['n_failed'])} of {count(failed['n_judgements'])} judgements failed")
    if UNANSWERED & {of["kind"] for of in (*ledger["failures"], *failed["kinds"])}:
        notes.append("--retry-failed asks again where there was no answer")
    table.caption = "; ".join(notes) or None
    return table


def console_reconstruction(reconstructions: list[dict[str, Any]]) -> Table:
    """Of `reconstruction_table`."""
    table = _table("\nReconstruction", "held out", "FVU", "L0", "dead", "unfired", "CE recovered", "ΔCE", "KL")
    for r in reconstructions:
        ce = r["cross_entropy"]
        cross_entropy = (percent(ce["recovered"]), number(ce["delta"]), number(ce["kl"]))
        shares = ("", "") if len(r["layers"]) > 1 else _shares(r["layers"][0])
        table.add_row(_name(r["label"]), number(r["fvu"]), number(r["l0"]), *shares, *cross_entropy)
        if len(r["layers"]) > 1:
            for layer in r["layers"]:
                table.add_row(f"  layer {layer['layer']}", number(layer["fvu"]), number(layer["l0"]), *_shares(layer))
    table.caption = "; ".join(_over_how_many(reconstructions)) if reconstructions else None
    return table


def _over_how_many(reconstructions: list[dict[str, Any]]) -> Iterator[str]:
    dead_after = [r["dead_after_tokens"] for r in reconstructions if r["dead_after_tokens"] is not None]
    if dead_after:
        yield f"dead: not fired for {_range(dead_after)} tokens of training"
    yield f"unfired: on none of {_range([r['n_tokens'] for r in reconstructions])} held-out tokens"
    yield f"CE and KL: over {_range([r['cross_entropy']['n_tokens'] for r in reconstructions])} tokens"


def _range(numbers: list[int]) -> str:
    """One number, or from where to where several coders differ."""
    low, high = min(numbers), max(numbers)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def _shares(layer: dict[str, Any]) -> tuple[str, str]:
    return percent(layer["dead_share"]), percent(layer["unfired_share"])


def _scores(summary: dict[str, Any]) -> RenderableType:
    overall = summary["scores"]["aggregates"][0]
    if not overall["n_scored"]:
        return Text("\nNo latent was scored by detection.")
    by = explained_by(overall["explainer"], overall["source"])
    title = f"\nScores, mean over {count(overall['n_scored'])} scored latents, explained by {visible(by, 40)}"
    arms = judged_arms(summary)
    table = _table(title, "", *arms.values())
    for metric, name in _SHOWN.items():
        table.add_row(name, *(estimate_cell(overall["macro"][arm].get(metric), overall["n_scored"]) for arm in arms))
    left = overall["n_unscored"]
    table.caption = f"{100 * summary['confidence']:g}% intervals" + (
        f"; {count(left)} selected latents have no score and are left out" if left else ""
    )
    rho = summary["scores"]["within_documents"]["explanation"]
    known = {kind: value for kind, value in rho.items() if value is not None}
    if known:
        told = " and ".join(f"{number(value)} ({kind})" for kind, value in known.items())
        table.caption += f"; answers on windows of one document correlate by {told}, which the intervals count in"
    return table


def _scorers(table: list[dict[str, Any]], n_scored: int) -> Table:
    """A row per scorer and metric, for what needs no explanation, and one per explainer below it; a column per arm."""
    rows = scorer_rows(table)
    arms = [arm for arm in SCORER_ARMS if any(arm in row for row in rows.values())]
    shown = _table("\nScorers, mean over latents, by explanation", "", *(SCORER_ARMS[arm] for arm in arms))
    for scorer, metric in dict.fromkeys((scorer, metric) for scorer, _, metric in rows):
        below = {told: cells for (of, told, by), cells in rows.items() if told and (of, by) == (scorer, metric)}
        bare = rows.get((scorer, "", metric), {})
        names = f"{scorer.replace('_', ' ')} {SCORER_METRICS[metric]}", *(f"  {name}" for name in below)
        for name, cells in zip(names, (bare, *below.values()), strict=True):
            estimates = (estimate_cell(cells[arm], n_scored) if arm in cells else "" for arm in arms)
            shown.add_row(_name(name.replace("_", " ")), *estimates)
    return shown


def _perfect(summary: dict[str, Any]) -> Table | None:
    """Of each explainer, over everything; none where nobody judged enough windows."""
    whole = [entry for entry in summary["scores"]["aggregates"] if entry["coder"] is None and entry["n_scored"]]
    if not whole:
        return None
    n = whole[0]["perfect"]["n_windows"]
    names = ("explainer", "with windows enough", "of those to be scored", "of alive", "of all", "truly above 0.9")
    table = _table("\nPerfect latents", *names)
    for entry in whole:
        of = entry["perfect"]
        shares = (estimate_cell(of[name], None) for name in ("of_scored", "of_alive", "of_all"))
        told = explained_by(entry["explainer"], entry["source"]).replace("_", " ")
        table.add_row(_name(told), f"{of['n_enough']:,}", *shares, estimate_cell(of["truly_above"], entry["n_scored"]))
    table.caption = f"all of {n} drawn windows judged right; the last, whatever their number: true balanced accuracy"
    return table


def _calibration(summary: dict[str, Any]) -> Table | None:
    arms = summary["scores"]["calibration"]
    if not arms:
        return None
    names = ("Brier", "log loss", "calibration error")
    table = _table("\nThe judge at the natural rate, before → after calibration", "told", *names, "n")
    for arm in arms:
        before, after = arm["before"], arm["after"]
        cells = (f"{number(before[key])} → {number(after[key])}" for key in ("brier", "log_loss", "ece"))
        table.add_row(SCORER_ARMS[arm["arm"]], *cells, count(arm["n"]))
    return table


def _bands(summary: dict[str, Any]) -> Table | None:
    """Labels by explainer, and the means of what stands behind them."""
    bands = summary["scores"]["bands"]
    if not bands:
        return None
    shown = [label for label in bands[0]["labels"] if any(one["labels"][label] for one in bands)]
    table = _table("\nAcross activation bands", "explainer", *shown, "agreement", "lost below", "drop-off, bits")
    for one in bands:
        counts = (count(one["labels"][label]) for label in shown)
        means = (estimate_cell(one[name], one["n"]) for name in ("agreement", "low_polysemanticity", "drop_off"))
        table.add_row(_name(one["explainer"]), *counts, *means)
    table.caption = "latents per label; “polysemantic at low activation” is a ping"
    return table


def console_asked(models: list[dict[str, Any]], shared: Path | None) -> Table:
    """Of `Replies.totals`; `shared` is the file, where other runs may use it, too."""
    table = _table("\nAsked", "model", "requests", "failed", "prompt tokens", "answer tokens", "US$")
    for of in models:
        cost = "" if of["cost"] is None else f"{of['cost']:.4g}"
        names = ("n_requests", "n_failed", "prompt_tokens", "completion_tokens")
        table.add_row(_name(of["model"]), *(count(of[name]) for name in names), cost)
    whose = f"by the runs that share {visible(str(shared), 80)}" if shared else "in this run directory"
    table.caption = f"all that was ever asked {whose}"
    return table


def console_requests(counts: dict[str, CountingClient], judge: JudgeConfig) -> RenderableType:
    """What stages would ask, and what it would cost at most where prices are known."""
    if not counts:
        return Text("\nNothing is left to ask.")
    table = _table("\nTo be asked", "", "model", "requests", "prompt tokens", "answer tokens", "US$")
    for stage, of in counts.items():
        price = judge.price(of.model)
        cost = "" if price is None else f"{price.cost(of.prompt_tokens, of.most_completion_tokens):.4g}"
        counted = map(count, (of.requests, of.prompt_tokens, of.most_completion_tokens))
        table.add_row(stage, _name(of.model), *counted, cost)
    table.caption = (
        "what has no answer yet; prompt tokens estimated, four characters each, and answers as long as they may be"
    )
    return table


def console_comparison(comparison: dict[str, Any], names: tuple[str, str]) -> Group:
    """Of `report.comparison`."""
    n = len(comparison["coders"])
    how = (
        f"latent by latent, over {'the same coder' if n == 1 else f'{n} coders that are the same'}"
        if comparison["paired"]
        else "as populations, within bins of firing rate and shared hookpoints: the coders differ"
    )
    return Group(*(part for pair in comparison["explainers"] for part in _compared(pair, names, how, comparison)))


def _compared(pair: dict[str, Any], names: tuple[str, str], how: str, comparison: dict[str, Any]) -> Iterator[Table]:
    told = [explained_by(pair[which]["explainer"], pair[which]["source"]) for which in ("first", "second")]
    shown = [visible(name, 40) for name in names]
    heads = (f"{name}, {visible(by, 40)}" for name, by in zip(shown, told, strict=True))
    table = _table(f"\nCompared {how}", "", *heads, "difference", "n")
    for metric, of in pair["metrics"].items():
        first, second = (number(of[which]) for which in ("first", "second"))
        table.add_row(METRICS[metric], first, second, estimate_cell(of["difference"], None), count(of["n"]))
    table.caption = f"{100 * comparison['confidence']:g}% intervals; a median’s difference is that of the differences"
    if comparison["paired"]:
        table.caption += f"; scored in one run only: {count(pair['only_first'])}, {count(pair['only_second'])}"
    yield table
    if pair["n_apart"]:
        apart = [one for one in pair["moved"] if one["apart"]]
        title = f"\nWith intervals that do not meet, {count(len(apart))} of {count(pair['n_apart'])}"
        moved = _table(title, "latent", *shown, "first says", "second says")
        for one in apart:
            ends = (estimate_cell(one[which], None) for which in ("first", "second"))
            texts = (_name(one[which]["text"]) for which in ("first", "second"))
            moved.add_row(Text(visible(f"{coder_label(one['coder'])}, {one['latent']}", 80)), *ends, *texts)
        yield moved


_STATISTICS = {
    "firing_rate": "r",
    "context_rate": "π",
    "context_dependence": "context",
    "max_activation": "max",
}


def console_statistics(table: pa.Table, sort: Statistic, *, ascending: bool, top: int) -> RenderableType:
    """The first rows of a statistics table by one of its columns; missing values come last."""
    direction = "ascending" if ascending else "descending"
    rows = table.sort_by([(sort, direction)]).slice(0, top).to_pylist()
    coders = {row["coder"] for row in rows}
    numbered = _STATISTICS if sort in (*_STATISTICS, "latent", "layer") else {**_STATISTICS, sort: sort}
    title = coder_label(coders.pop()) if len(coders) == 1 else "Latents"
    shown = _table(f"\n{title}", *(["coder"] if coders else []), "latent", *numbered.values())
    for words in ("flags", "set off by", "raises"):
        shown.add_column(words, header_style="dim", overflow="fold")
    for column in shown.columns:
        if column.header not in ("coder", "flags"):  # which are folded where the terminal is narrow
            column.no_wrap, column.overflow = True, "ellipsis"
        if column.header in ("latent", *numbered.values()):
            column.min_width = 7
    for row in rows:
        coder = [_name(coder_label(row["coder"]))] if coders else []
        flags = [name.replace("_", " ") for name in ("dense", "positional", "pure_token", "rare") if row[name]]
        tokens = (_words(row["triggers"]), _words(row.get("raises")))
        numbers = (number(row[name]) for name in numbered)
        shown.add_row(*coder, str(row["latent"]), *numbers, ", ".join(flags), *tokens)
    return shown


def _words(tokens: list[str] | None) -> Text:
    return Text(visible(" ".join(token.strip() or repr(token) for token in (tokens or [])[:4]), 80)[:14])
