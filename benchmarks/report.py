"""How long does a report take, from the judgements (cold) and where only a filter changed?

    python benchmarks/report.py [--quick] [--latents 100000] [--rounds 3]

Made-up results of one coder in three layers: every latent explained and judged on 60 windows (five quantiles of four,
20 random, 10 same-token, 10 neighbour; two to a document) with the explanation, without any and by the token baseline,
and on 20 of them with another latent's explanation: 200 judgements of each. Making them is not timed.

    cold      `read_tables`, `save_tables` and `summarise`, from the database
    filter    `load_tables` and `summarise` of one layer, from what a cold report left behind

There is no peer: delphi reads one file per latent and scorer into a table, without intervals, and others do not score.
The last line is JSON: medians in seconds, the sizes, and the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from outcrop.config import ReportConfig, Where
from outcrop.report.summary import summarise
from outcrop.report.tables import load_tables, read_tables, save_tables
from outcrop.results import Results
from outcrop.types import CoderKey, Hookpoint

KEY = str(CoderKey("topk", Hookpoint("model.layers.15"), Hookpoint("model.layers.15"), 0))
N_LAYERS = 3
STRATA = {"random": (20, 0.97), "same_token": (10, 0.01), "neighbour": (10, 0.02)}
KINDS = [(q, None) for q in range(1, 6) for _ in range(4)] + [
    (None, s) for s, (n, _) in STRATA.items() for _ in range(n)
]
N_OTHER = 20
ARMS = (
    ("detection", "none", "", ""),
    ("detection", "plain", "contrastive", "all"),
    ("token_baseline", "plain", "", ""),
)

Row = tuple[Any, ...]


def fill(path: Path, n_latents: int) -> None:
    """The tables, straight into the database."""
    Results(path).close()
    generator = np.random.default_rng(0)
    with sqlite3.connect(path) as db:
        insert(
            db,
            coders=[coder(n_latents)],
            latents=latents(n_latents, generator),
            strata=((KEY, i, s, share, 1000, None) for i in range(n_latents) for s, (_, share) in STRATA.items()),
            examples=examples(n_latents),
            explanations=explanations(n_latents),
            judgements=judgements(n_latents, generator),
        )


def insert(db: sqlite3.Connection, **tables: Iterable[Row]) -> None:
    """The rows of each table, in this order."""
    for table, rows in tables.items():
        width = len(db.execute(f"PRAGMA table_info({table})").fetchall())
        db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * width)})", rows)


def coder(n_latents: int) -> Row:
    return KEY, N_LAYERS, n_latents // N_LAYERS, 32, 10_000_000, 0, 0, 300_000, 20_000


def latents(n: int, generator: np.random.Generator) -> Iterator[Row]:
    rates = 10 ** generator.uniform(-5, -1, n)
    per_layer = -(-n // N_LAYERS)
    for i, rate in enumerate(rates.tolist()):
        statistics_of = (rate, min(1.0, 20 * rate), 1.0, 5.0, 0.3, 0.9)
        yield KEY, i, i // per_layer, 0, 100, 100, *statistics_of, rate > 0.1, 0, 0, 0, 1.0, " word"


def examples(n: int) -> Iterator[Row]:
    for latent in range(n):
        for i, (quantile, stratum) in enumerate(KINDS):
            peak = float(quantile or 0)
            yield KEY, latent, i, "score", i, i // 2, quantile, stratum, None, None, peak, peak


def explanations(n: int) -> Iterator[Row]:
    return ((KEY, i, "contrastive", "all", "a phrase", "hash", None, None, 10, 320, None, "[]") for i in range(n))


def judgements(n: int, generator: np.random.Generator) -> Iterator[Row]:
    """A judge that is better at strong windows, and one that guesses without an explanation."""
    fires = np.array([quantile is not None for quantile, _ in KINDS])
    for latent in range(n):
        skill = generator.uniform(0, 3)
        for names in ARMS:
            logits = (skill if names[2] or names[0] != "detection" else 0) * np.where(fires, 1, -1)
            yield from answers(latent, names, logits + generator.normal(size=len(KINDS)))
        yield from answers(latent, ("detection", "other", "contrastive", "all"), generator.normal(size=N_OTHER))


def answers(latent: int, names: tuple[str, ...], logits: np.ndarray) -> Iterator[Row]:
    for i, p in enumerate((1 / (1 + np.exp(-logits))).tolist()):
        yield KEY, latent, *names, i, p, p > 0.5, "hash", None, None, None


def timed(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """Medians on the clock and of the processor's time."""
    turns = []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        work()
        turns.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, cpu = (statistics.median(turn) for turn in zip(*turns, strict=True))
    return {"seconds": round(clock, 2), "cpu_seconds": round(cpu, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3,000 latents, one round")
    parser.add_argument("--latents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.quick:
        options.latents, options.rounds = 3_000, 1
    config = ReportConfig()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        fill(path / "results.sqlite", options.latents)
        size = (path / "results.sqlite").stat().st_size

        def cold() -> None:
            with Results(path / "results.sqlite", read_only=True) as results:
                tables = read_tables(results, config.confidence)
            save_tables(tables, path)
            summarise(tables, [], config)

        layer = Where(layers=(1,))
        found = {
            "cold": timed(cold, options.rounds),
            "filter": timed(lambda: summarise(load_tables(path), [], config, layer), options.rounds),
        }
    for name, of in found.items():
        print(f"{name}: {of['seconds']} s, {of['cpu_seconds']} s of the processor", file=sys.stderr)
    about = {"latents": options.latents, "judgements": 200 * options.latents, "database_mib": round(size / 2**20)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({**about, "rounds": options.rounds, **found, "peak_mib": peak}))


if __name__ == "__main__":
    main()
