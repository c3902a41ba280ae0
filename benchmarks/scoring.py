"""How many latents a second are scored at a server, against delphi's pipeline, and are the server's slots kept busy?

    python benchmarks/scoring.py [--quick] [--latents 24 256] [--windows 10] [--slots 64] [--seconds 0.5 0.05]
                                 [--peer-python PATH]

The server stands on loopback, has so many slots, and takes a fixed time for every request; both contenders may have as
many requests in flight as it has slots. Detection of made-up windows of 32 tokens, one window per request, without
controls; half of the windows activating.

    outcrop   `score` with `OpenAIClient`
    delphi    its `Pipeline` over `DetectionScorer` with `OpenRouter`, the client of its for a server

Contenders are processes of their own and take turns. Every answer must be there and right, else the run fails. The
last line is JSON: by case the medians of latents and requests per second, the share of slots that was busy, and
`faster_than`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from step import Contender, Worker, environment

HERE = Path(__file__).parent
NAMES = ("outcrop", "delphi")


@contextmanager
def server(slots: int, seconds: float) -> Iterator[str]:
    """Its address."""
    command = [sys.executable, str(HERE / "workers" / "slots.py"), str(slots), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def busy(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{address}/busy") as answer:
        told: dict[str, float] = json.load(answer)
    return told


def measure(case: dict[str, Any], rounds: int, entrants: list[Contender]) -> dict[str, dict[str, float]]:
    workers = {one.name: Worker(one, threads=1) for one in entrants}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    try:
        for worker in workers.values():
            worker.open(case)
        for _ in range(rounds):
            for name, worker in workers.items():
                busy(case["address"])
                worker.step()
                turns[name].append(busy(case["address"]))
    finally:
        for worker in workers.values():
            worker.close()
    return {name: _medians(of, case) for name, of in turns.items()}


def _medians(turns: list[dict[str, float]], case: dict[str, Any]) -> dict[str, float]:
    expected = case["latents"] * case["n_windows"]
    assert all(turn["answered"] == expected for turn in turns), f"{turns}: {expected} requests were expected"
    seconds = statistics.median(turn["seconds"] for turn in turns)
    return {
        "latents_per_second": case["latents"] / seconds,
        "requests_per_second": expected / seconds,
        "busy": statistics.median(turn["busy"] for turn in turns),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 latents, 10 windows, 0.1 s, one round")
    parser.add_argument("--latents", type=int, nargs="+", default=[24, 256])
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.5, 0.05])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", help="the Python of an environment that holds eai-delphi")
    options = parser.parse_args()
    if options.quick:
        options.latents, options.seconds, options.rounds = [24], [0.1], 1
    return options


def main() -> None:
    options = arguments()
    peer = options.peer_python or environment("delphi", "eai-delphi==0.1.3")
    entrants = [
        Contender("outcrop", "outcrop_scoring", sys.executable),
        Contender("delphi", "delphi_scoring", peer),
    ]
    cases = []
    for seconds, latents in itertools.product(options.seconds, options.latents):
        with server(options.slots, seconds) as address:
            case = {"latents": latents, "n_windows": options.windows, "slots": options.slots, "address": address}
            found = measure({**case, "m": latents}, options.rounds, entrants)
        ratio = found["outcrop"]["latents_per_second"] / found["delphi"]["latents_per_second"]
        told = ", ".join(f"{name} {of['latents_per_second']:.2f} ({of['busy']:.0%} busy)" for name, of in found.items())
        print(f"{latents} latents, {seconds:g} s. Latents/s: {told}. Ours: {ratio:.2f} × delphi.")
        cases.append({"latents": latents, "seconds": seconds, "slots": options.slots, **found, "faster_than": ratio})
    print(json.dumps({"windows": options.windows, "cases": cases}))


if __name__ == "__main__":
    main()
