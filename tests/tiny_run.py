"""The settings of a run that goes from text to report in seconds, and what is compared of two runs."""

from __future__ import annotations

import json
from pathlib import Path

from outcrop.results import Results
from outcrop.schema import TABLES
from tests.tiny import write_corpus, write_model

SETTINGS = {
    "model.dtype": "float32",
    "text.context-tokens": 48,
    "text.max-document-tokens": 80,
    "coder.n-latents": 64,
    "coder.k": 4,
    "coder.layers": 2,
    "train.tokens": 4_000,
    "train.held-out-tokens": 500,
    "train.ce-tokens": 200,
    "train.batch-tokens": 128,
    "train.block-tokens": 1_000,
    "train.evaluate-every-tokens": 512,
    "train.checkpoint-every-tokens": 256,
    "cache.tokens": 6_000,
    "cache.shard-tokens": 1_000,
    "cache.window-tokens": 8,
    "select.n-latents": 4,
    "select.n-rate-bins": 2,
    "examples.n-quantiles": 2,
    "examples.explain-activating": 4,
    "examples.explain-random": 2,
    "examples.explain-same-token": 1,
    "examples.score-activating": 6,
    "examples.score-random": 6,
    "examples.score-same-token": 2,
    "judge.concurrency": 4,
    "judge.attempts": 2,
}
HOOKPOINTS = ("model.layers.0", "model.layers.1")


def flags(settings: dict[str, object]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def arguments(model: Path, text: Path, judge: str | None, **changes: object) -> list[str]:
    """All settings of a tiny run but its directory. A change `train__tokens` stands for `train.tokens`."""
    named = {name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()}
    places = {"model": model, "text": text} | ({"judge": judge} if judge else {})
    return [*flags({**places, **SETTINGS, **named}), "--hookpoints", *HOOKPOINTS]


def write_inputs(directory: Path) -> tuple[Path, Path]:
    """A model and a text, as long as the tiny run needs."""
    directory.mkdir(exist_ok=True)
    return write_model(directory / "model"), write_corpus(directory / "corpus.jsonl", n_documents=400)


def tables(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table of the results database, and the ledger."""
    with Results(run / "results.sqlite", read_only=True) as results:
        return {name: results.rows(name) for name in (*TABLES, "ledger")}


def files(run: Path) -> dict[str, bytes]:
    """What a run leaves behind beside its databases: weights, shards, tokens, metrics but for the seconds that training
    took, summary and page."""
    found = [
        path
        for part in ("tokens", "coders", "cache", "report")
        for path in sorted((run / part).rglob("*"))
        if path.is_file()
    ]
    measured = [json.loads(line) | {"seconds": None} for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {str(path.relative_to(run)): path.read_bytes() for path in found} | {
        "metrics": json.dumps(measured).encode()
    }
