"""How interpretable the layers of stacks are, from runs that explained and scored some latents of each.

    python examples/depth/interpreted.py runs/depth-1 runs/depth-3 runs/depth-5

Per run over all its layers, then per layer: informedness J of the explanations as the judge uses them, of the tokens
alone on the same windows, and what is left between them; J weighted by firing rate; AUROC of the judge and of sentence
embeddings. Means over latents with 95% intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from outcrop import config as configs
from outcrop.config import Where
from outcrop.errors import OutcropError
from outcrop.pipeline import Run
from outcrop.report.text import interval, number
from outcrop.schema import EMBEDDING

COLUMNS = (
    *("run", "layer", "latents", "J", "J of tokens", "beyond tokens", "J by firing rate"),
    *("AUROC", "AUROC by embeddings"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run directories whose report is made")
    try:
        rows = [row for path in parser.parse_args().runs for row in _rows(path)]
    except OutcropError as error:
        parser.error(str(error))
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _rows(path: Path) -> Iterator[tuple[str, ...]]:
    """Of all layers together, then of each."""
    run = Run(configs.load(path / "config.yaml"), path)
    n_layers = run.config.coder.layers
    for layers in [tuple(range(n_layers)), *((layer,) for layer in range(n_layers) if n_layers > 1)]:
        about = "all" if len(layers) == n_layers else str(layers[0])
        yield (run.directory.name, about, *_cells(run.summary(Where(layers=layers))["scores"]))


def _cells(scores: Mapping[str, Any]) -> Iterator[str]:
    everything = scores["aggregates"][0]
    explanation, tokens = (everything["macro"][arm] for arm in ("explanation", "token_baseline"))
    embedded = [
        one for one in scores["scorers"] if (one["scorer"], one["arm"], one["metric"]) == (EMBEDDING, "plain", "auroc")
    ]
    yield str(everything["n_scored"])
    yield _measure(explanation["informedness"])
    yield _measure(tokens["informedness"])
    yield _measure(explanation["beyond_tokens"])
    yield _measure(everything["weighted"]["firing_rate"]["explanation"]["informedness"])
    yield _measure(explanation["auroc"])
    yield _measure(embedded[0]) if embedded else "—"


def _measure(one: dict[str, Any]) -> str:
    return f"{number(one['value'])} {interval(one)}"


if __name__ == "__main__":
    main()
