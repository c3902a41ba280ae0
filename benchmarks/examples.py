"""How many latents a second go from the cache on disk to finished examples, against delphi's?

    python benchmarks/examples.py [--quick] [--negatives random neighbours] [--latents 8192] [--tokens 524288]
                                  [--select 256] [--peer-python PATH]

Both caches are of the same activations by the same TopK coder (k = 32), each made by its own library beforehand. For
every selected latent: 40 activating windows of 32 tokens to explain with, 50 to score with, both from 10 quantiles,
and 50 in which it does not fire, random ones or those of its neighbours by co-firing. These are delphi's defaults.

    outcrop   opening the cache, `survey` (which counts all latents and selects), `build_examples`
    build     a part of it: `build_examples` alone
    delphi    `LatentDataset` for the latents that we selected, iterated as its pipeline does: loader, constructor,
              sampler; with neighbours, its `NeighbourCalculator` before
    tuned     the same with a malloc that keeps freed memory

Processes take turns in one run. The last line is JSON: by case the medians in latents per second and in seconds,
`faster_than` by the clock and by CPU time, and `extra_mib`, how far two passes push the peak of resident memory. The
run fails unless both finish the same latents, with the same firing and context rates and as many activating windows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cache import DELPHI, NEAR_TIES, PEERS, K, contenders, figures, mebibytes, take_turns, versions
from step import Worker, compared, environment

NEGATIVES = ("random", "neighbours")
Records = dict[str, dict[str, float]]  # by latent


def measure(case: dict[str, Any], rounds: int, workers: dict[str, Worker]) -> dict[str, Any]:
    """Medians of passes taken in turns, over the latents that we selected at first."""
    extra: dict[str, int | None] = {}
    for name, worker in workers.items():  # we come first
        own = Path(case["folder"], case["negatives"], name)
        own.mkdir(parents=True)
        extra[name] = worker.open({**case, "folder": str(own), "surveyed": name == "build"})["extra_bytes"]
        case = {"latents": sorted(map(int, records(case, "outcrop"))), **case}
    clock, cpu = take_turns(workers, rounds)
    build = {"seconds": clock.pop("build"), "cpu_seconds": cpu.pop("build")}
    for name in workers:
        require_equal(records(case, "outcrop"), records(case, name), name)
    n, peers = len(case["latents"]), [name for name in clock if name != "outcrop"]
    return {
        **{key: case[key] for key in ("negatives", "n", "m")},
        "n_latents": n,
        "latents_per_second": {name: round(n / seconds, 1) for name, seconds in clock.items()},
        **compared(clock),
        "cpu": compared(cpu),
        "build": {
            "latents_per_second": round(n / build["seconds"], 1),
            "faster_than": {name: round(clock[name] / build["seconds"], 2) for name in peers},
            "faster_than_by_cpu": {name: round(cpu[name] / build["cpu_seconds"], 2) for name in peers},
        },
        "extra_mib": {name: mebibytes(extra[name]) for name in workers},
        "non_activating": {name: round(mean(records(case, name), "non_activating"), 1) for name in workers},
    }


def records(case: dict[str, Any], name: str) -> Records:
    return json.loads(Path(case["folder"], case["negatives"], name, "records.json").read_text())


def mean(of: Records, field: str) -> float:
    return float(np.mean([record[field] for record in of.values()]))


def require_equal(ours: Records, theirs: Records, name: str) -> None:
    """SystemExit unless the same was done for the same latents."""
    if not ours or ours.keys() != theirs.keys():
        raise SystemExit(f"{len(ours)} latents are ours, {len(theirs)} {name}'s, {len(ours.keys() & theirs)} both's")
    for field in ("firing_rate", "context_rate", "explain", "score"):
        a, b = (np.array([one[latent][field] for latent in ours]) for one in (ours, theirs))
        if not np.abs(a - b).sum() <= NEAR_TIES * a.sum():
            raise SystemExit(f"{field} differs from {name}'s: {a.tolist()} against {b.tolist()}")


def line(case: dict[str, Any]) -> str:
    rates, ratios, memory = figures(case, "latents_per_second")
    return f"{case['negatives']}, {case['n_latents']} of {case['m']} latents. Latents/s: {rates}. " + (
        f"Ours: {ratios}; build alone: {case['build']['faster_than']}. MiB: {memory}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 of 2048 latents, 65,536 tokens, one round, no `tuned`")
    parser.add_argument("--negatives", nargs="+", default=NEGATIVES[:1], choices=NEGATIVES)
    parser.add_argument("--latents", type=int, default=8192, help="of the coder")
    parser.add_argument("--select", type=int, default=256, help="latents that get examples")
    parser.add_argument("--tokens", type=int, default=524_288, help="a multiple of 8192: delphi's batches")
    parser.add_argument("--width", type=int, default=128, help="of the activations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--peer-python", help="the Python of an environment that holds eai-delphi")
    options = parser.parse_args()
    if options.quick:
        options.latents, options.select, options.tokens, options.rounds = 2048, 32, 65_536, 1
        options.peers = ("delphi",)
    if options.tokens % 8192:
        parser.error(f"--tokens {options.tokens}: not a multiple of 8192, of which delphi would drop the rest")
    return options


def main() -> None:
    options = arguments()
    peer_python = options.peer_python or environment("delphi", DELPHI)
    ours, *peers = contenders(peer_python, "examples", options.peers)
    entrants = [ours, replace(ours, name="build"), *peers]
    workers = {one.name: Worker(one, options.threads) for one in entrants}
    sizes = {"n": options.tokens, "m": options.latents, "d": options.width, "k": K, "n_latents": options.select}
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for negatives in options.negatives:
            case = {**sizes, "model": None, "bos": True, "negatives": negatives, "folder": folder}
            cases.append(measure(case, options.rounds, workers))
            print(line(cases[-1]), flush=True)
        for worker in workers.values():
            worker.close()
    packages = ("torch", "transformers", "tokenizers")
    environments = {"outcrop": versions(sys.executable, *packages), "delphi": versions(peer_python, *packages)}
    about = {"d": options.width, "k": K, "threads": options.threads, "rounds": options.rounds}
    print(json.dumps({**about, "versions": environments, "cases": cases}))


if __name__ == "__main__":
    main()
