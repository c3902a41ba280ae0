"""How long does it take to find every latent's nearest ten by co-firing, and in how much memory?

    python benchmarks/neighbours.py [--quick] [--latents 8192 32768 131072] [--tokens 10000000] [--measure jaccard]

Firings are made up: about k = 32 latents on each token, whose rates fall as 1/rank; half of them are shifted by the
topic of the token's document, so that latents have company of their own. They are written as a real cache of shards,
which is not timed. Each size is a process of its own. For a sample of latents the neighbours must equal those of a
direct count. The last line is JSON: of each size the seconds, and the MiB that the process held at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

K, DOCUMENT, SHARD = 32, 256, 1_000_000


def firings(n_tokens: int, n_latents: int, seed: int) -> tuple[ndarray, ndarray]:
    """Token and latent of every firing."""
    generator = np.random.default_rng([seed, n_latents])
    chances = 1 / (np.arange(n_latents) + 5)
    rank = np.searchsorted(np.cumsum(chances / chances.sum()), generator.random((n_tokens, K)))
    topic = np.repeat(generator.integers(1, n_latents, size=-(-n_tokens // DOCUMENT)), DOCUMENT)[:n_tokens]
    shifted = generator.random((n_tokens, K)) < 0.5
    latent = (rank + np.where(shifted, topic[:, None], 0)) % n_latents
    latent.sort(axis=1)
    first = np.ones(latent.shape, dtype=bool)  # a latent fires on a token once
    first[:, 1:] = np.diff(latent, axis=1) > 0
    token = np.broadcast_to(np.arange(n_tokens, dtype=np.int32)[:, None], latent.shape)
    return token[first], latent[first].astype(np.int32)


def shard_firings(n_tokens: int, n_latents: int) -> Iterator[tuple[int, ndarray, ndarray]]:
    """First token, and the firings, of each shard."""
    for start in range(0, n_tokens, SHARD - SHARD % DOCUMENT):
        stop = min(n_tokens, start + SHARD - SHARD % DOCUMENT)
        yield (start, *firings(stop - start, n_latents, start))


def write(directory: Path, n_tokens: int, n_latents: int, n_types: int = 1) -> None:
    """The cache of such firings, whose activations are drawn at random."""
    from outcrop.latents.shards import Made, ShardRange, sorted_by_latent, text_hash, write_shard

    placed, corpus = setting(n_tokens, n_latents, n_types)
    for i, (start, position, latent) in enumerate(shard_firings(n_tokens, n_latents)):
        stop = min(n_tokens, start + SHARD - SHARD % DOCUMENT)
        contexts = range(start // DOCUMENT, -(-stop // DOCUMENT))
        value = np.random.default_rng(i).exponential(size=len(latent)).astype(np.float32) + 0.01
        tensors = sorted_by_latent(position, latent, value, (stop - start, n_latents), np.empty(0, np.int64))
        made = Made("synthetic", text_hash(corpus, contexts), placed.hash, start, stop)
        write_shard(directory / str(placed.key) / ShardRange(i, contexts, start, stop).name, tensors, made)


def setting(n_tokens: int, n_latents: int, n_types: int = 1):
    """A coder that has so many latents, and a corpus that has so many tokens, of types with Zipf's frequencies."""
    import torch

    import outcrop as oc
    from outcrop.coders.stack import SparseStack
    from outcrop.config import Architecture
    from outcrop.model.corpus import Corpus

    start = np.append(np.arange(0, n_tokens, DOCUMENT), n_tokens)
    chances = 1 / (np.arange(n_types) + 3)
    types = np.searchsorted(np.cumsum(chances / chances.sum()), np.random.default_rng(0).random(n_tokens))
    corpus = Corpus(
        types.clip(max=n_types - 1).astype(np.int32),
        start,
        np.arange(len(start) - 1, dtype=np.int32),
        np.ones(n_tokens, bool),
    )
    place = oc.Hookpoint("made.up")
    coder = SparseStack(Architecture(n_latents=n_latents, k=K), 4, generator=torch.Generator().manual_seed(0))
    return oc.PlacedCoder(oc.CoderKey("made", place, place, 0), coder), corpus


def measure(directory: Path, n_tokens: int, n_latents: int, kind: str) -> dict[str, float]:
    """In this process: find the neighbours of all latents, and check some."""
    from outcrop.latents.cache import LatentCache
    from outcrop.latents.neighbours import find_neighbours

    placed, corpus = setting(n_tokens, n_latents)
    cache = LatentCache(directory, placed, corpus)
    started = time.perf_counter()
    found = find_neighbours(cache, np.arange(n_latents), kind)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    held = peak_mib()
    check(found, n_tokens, n_latents, kind)
    return {"seconds": round(seconds, 1), "mib": held, "firings": int(cache.n_fired.sum())}


def peak_mib() -> int:
    """The most memory held so far."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def check(found, n_tokens: int, n_latents: int, kind: str) -> None:
    """Against a count of the firings themselves, for a few latents."""
    sample = np.random.default_rng(0).choice(n_latents, size=5, replace=False)
    n, both = np.zeros(n_latents), np.zeros((len(sample), n_latents))
    for _, token, latent in shard_firings(n_tokens, n_latents):
        n += np.bincount(latent, minlength=n_latents)
        for row, one in enumerate(sample.tolist()):
            there = np.zeros(int(token.max()) + 1, dtype=bool)
            there[token[latent == one]] = True
            both[row] += np.bincount(latent[there[token]], minlength=n_latents)
    for row, one in enumerate(sample.tolist()):
        with np.errstate(divide="ignore", invalid="ignore"):
            like = both[row] / (n[one] + n - both[row])
            if kind == "npmi":
                like = np.log(both[row] * n_tokens / n[one] / n) / -np.log(both[row] / n_tokens)
        like[(both[row] == 0) | (n > n_tokens / 10) | (np.arange(n_latents) == one)] = -np.inf
        latents, ours = found.of_latent(one)
        expected = np.sort(like)[::-1][:10]
        np.testing.assert_allclose(ours, expected[expected > -np.inf], rtol=1e-5)
        np.testing.assert_allclose(ours, like[latents], rtol=1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8,192 latents on 500,000 tokens")
    parser.add_argument("--latents", type=int, nargs="+", default=[8_192, 32_768, 131_072])
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--measure", choices=["jaccard", "npmi"], default="jaccard")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)  # of the process of one size
    options = parser.parse_args()
    if options.cache:
        print(json.dumps(measure(options.cache, options.tokens, *options.latents, options.measure)))
        return
    if options.quick:
        options.latents, options.tokens = [8_192], 500_000
    cases = []
    for n_latents in options.latents:
        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory), options.tokens, n_latents)
            size = ["--latents", str(n_latents), "--tokens", str(options.tokens), "--measure", options.measure]
            command = [sys.executable, __file__, *size, "--cache", directory]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            cases.append({"latents": n_latents, **json.loads(answer.splitlines()[-1])})
            print(json.dumps(cases[-1]), flush=True)
    print(json.dumps({"tokens": options.tokens, "k": K, "measure": options.measure, "cases": cases}))


if __name__ == "__main__":
    main()
