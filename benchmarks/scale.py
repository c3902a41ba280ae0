"""How do the parts between a cache and a prompt grow with the text?

    python benchmarks/scale.py [--quick] [--tokens 1000000 10000000] [--latents 32768]

Firings are made up as in `neighbours.py`, on tokens of 50,000 types with Zipf's frequencies. They are written as a real
cache of shards of a million tokens, which is not timed. Each size is a process of its own:

    read        one latent out of the cache, the median of 300 drawn at random, milliseconds
    survey      grid, counts and statistics of all latents, and the selection of 1,000, seconds
    again       the same, with the counts that the first one left
    neighbours  by co-firing of these 1,000, seconds
    examples    of these, with random, same-token and neighbouring windows: latents per second

The last line is JSON: of each size these, the bytes of the cache and its counts on disk per firing, and the MiB that
the process held at most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from neighbours import peak_mib, setting, write

TYPES, SELECTED, READ = 50_000, 1_000, 300
Answer = TypeVar("Answer")


def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def measure(directory: Path, n_tokens: int, n_latents: int) -> dict[str, float]:
    """In this process, of the cache in a directory."""
    from outcrop.config import ExamplesConfig, SelectConfig
    from outcrop.latents.cache import LatentCache
    from outcrop.latents.examples import build_examples
    from outcrop.latents.neighbours import find_neighbours
    from outcrop.latents.survey import survey
    from outcrop.types import Vocabulary

    vocabulary = Vocabulary(tuple(f" w{i}".encode() for i in range(TYPES)))
    cache = LatentCache(directory, *setting(n_tokens, n_latents, TYPES))
    drawn = np.random.default_rng(0).choice(n_latents, READ, replace=False).tolist()
    read = statistics.median(timed(lambda latent=latent: cache[latent])[0] for latent in drawn)
    cached = size(directory)
    select, config = SelectConfig(n_latents=SELECTED), ExamplesConfig()
    first, _ = timed(lambda: survey(cache, vocabulary, select, config))
    again, surveyed = timed(lambda: survey(cache, vocabulary, select, config))
    latents = surveyed.selection.latents
    neighbours, _ = timed(lambda: find_neighbours(cache, latents, config.neighbour_measure, config.n_neighbours))
    built, examples = timed(lambda: list(build_examples(surveyed, config)))
    firings = int(cache.n_fired.sum())
    return {
        "read_ms": round(1_000 * read, 2),
        "survey_s": round(first, 1),
        "again_s": round(again, 1),
        "neighbours_s": round(neighbours, 1),
        "examples_per_s": round(len(examples) / (built - neighbours), 1),
        "cache_bytes_per_firing": round(cached / firings, 2),
        "counts_bytes_per_firing": round((size(directory) - cached) / firings, 2),
        "mib": peak_mib(),
        "firings": firings,
    }


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,096 latents on 200,000 and 400,000 tokens")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)  # of the process of one size
    options = parser.parse_args()
    if options.cache:
        print(json.dumps(measure(options.cache, *options.tokens, options.latents)))
        return
    if options.quick:
        options.tokens, options.latents = [200_000, 400_000], 4_096
    cases = []
    for n_tokens in options.tokens:
        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory), n_tokens, options.latents, TYPES)
            command = [sys.executable, __file__, "--tokens", str(n_tokens), "--latents", str(options.latents)]
            done = subprocess.run([*command, "--cache", directory], check=True, capture_output=True, text=True)
            cases.append({"tokens": n_tokens, **json.loads(done.stdout.splitlines()[-1])})
            print(json.dumps(cases[-1]), flush=True)
    print(json.dumps({"latents": options.latents, "selected": SELECTED, "cases": cases}))


if __name__ == "__main__":
    main()
