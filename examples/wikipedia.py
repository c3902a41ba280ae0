"""Full English Wikipedia articles as JSON lines, like those that the studies of the documentation were made with.

    pip install datasets
    python examples/wikipedia.py wikipedia.jsonl.gz

takes 3,146 articles of at least 500 characters, drawn at random among the oldest (those with an id below 60,000), from
the hub's `wikimedia/wikipedia`: some 50 MB of text, 12 million tokens. They are not the very articles of the studies,
but as many of the same kind.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
from datasets import load_dataset

SOURCE = ("wikimedia/wikipedia", "20231101.en")
N_ARTICLES, LAST_ID, SHORTEST = 3_146, 60_000, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where they are written: .jsonl.gz")
    path = parser.parse_args().file
    rows = load_dataset(*SOURCE, split="train", streaming=True)
    wanted = [row for row in rows.take(LAST_ID) if int(row["id"]) < LAST_ID and len(row["text"]) >= SHORTEST]
    chosen = np.sort(np.random.default_rng(0).permutation(len(wanted))[:N_ARTICLES])
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for i in chosen.tolist():
            file.write(
                json.dumps({name: wanted[i][name] for name in ("id", "title", "text")}, ensure_ascii=False) + "\n"
            )
    print(f"{len(chosen)} articles in {path}")


if __name__ == "__main__":
    main()
