"""How long does one training step take, against sparsify's and against the encoder's product alone?

    python benchmarks/step.py [--quick] [--rounds 5] [--optimizers adam muon] [--peer-python PATH]

A step is forward, backward, optimizer, decoder normalisation and dead counting, on N = 4096 synthetic
activations of width D, for M latents of which k = 32 are active. Measured in the same run, on the same
inputs, taking turns:

    outcrop     our step
    floor       the encoder's product alone: [N D] · [D M] in bfloat16, into a reused buffer
    sparsify    sparsify's step, as its trainer takes it on a CPU
    autocast    the same under bfloat16 autocast
    tuned       the same as `sparsify`, with a malloc that keeps freed memory (its page faults are costly)

Each is a process of its own. sparsify runs in an environment of its own, made at first use under
~/.cache/outcrop, or in the one whose Python is named. The last line is JSON: seconds (medians) and ratios,
by the clock and, under `cpu`, by the time that the process was given, which other processes disturb less
(with --threads 1: at two, it holds the threads' waiting, too); and `extra_mib`, the peak of memory over two
steps beyond weights, gradients and optimizer state.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
N, K = 4096, 32
WIDTHS, LATENTS, OPTIMIZERS = (512, 576, 768), (8192, 16384, 32768), ("adam", "signum", "muon")
# glibc gives large blocks back to the system whenever they are freed, unless it is told not to.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


@dataclass(frozen=True)
class Contender:
    """Who takes a step, and how."""

    name: str
    worker: str
    python: str
    autocast: bool = False
    environment: tuple[tuple[str, str], ...] = ()


class Worker:
    """A process that steps when asked to."""

    def __init__(self, contender: Contender, threads: int) -> None:
        command = [contender.python, str(HERE / "workers" / f"{contender.worker}.py")]
        environment = {**os.environ, **dict(contender.environment), "OMP_NUM_THREADS": str(threads)}
        pipe = subprocess.PIPE
        self.autocast = contender.autocast
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def open(self, case: dict[str, Any]) -> dict[str, Any]:
        return self._ask({"open": {**case, "autocast": self.autocast}})

    def step(self) -> dict[str, float]:
        return self._ask({"step": True})

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a worker has died: {self.process.args}")
        return json.loads(answer)


def contenders(peer_python: str) -> list[Contender]:
    return [
        Contender("outcrop", "outcrop_step", sys.executable),
        Contender("floor", "outcrop_step", sys.executable),
        Contender("sparsify", "sparsify_step", peer_python),
        Contender("autocast", "sparsify_step", peer_python, autocast=True),
        Contender("tuned", "sparsify_step", peer_python, environment=tuple(KEEP_MEMORY.items())),
    ]


def measure(case: dict[str, Any], rounds: int, entrants: list[Contender], threads: int) -> dict[str, Any]:
    """Medians of steps taken in turns."""
    workers = {contender.name: Worker(contender, threads) for contender in entrants}
    extra = {
        name: worker.open({**case, "optimizer": "floor"} if name == "floor" else case)["extra_bytes"]
        for name, worker in workers.items()
    }
    turns = [{name: worker.step() for name, worker in workers.items()} for _ in range(rounds)]
    for worker in workers.values():
        worker.close()
    return {
        **{key: case[key] for key in ("d", "m", "optimizer")},
        **comparison({name: statistics.median(turn[name]["seconds"] for turn in turns) for name in workers}),
        "cpu": comparison({name: statistics.median(turn[name]["cpu_seconds"] for turn in turns) for name in workers}),
        "extra_mib": {name: extra[name] and round(extra[name] / 2**20) for name in workers if name != "floor"},
    }


def comparison(seconds: dict[str, float]) -> dict[str, Any]:
    """Ours against the floor and against the peers."""
    return {**compared(seconds), "times_floor": round(seconds["outcrop"] / seconds["floor"], 2)}


def compared(seconds: dict[str, float]) -> dict[str, Any]:
    """Ours against the peers."""
    peers = {name: value for name, value in seconds.items() if name not in ("outcrop", "floor")}
    return {
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "faster_than": {name: round(value / seconds["outcrop"], 2) for name, value in peers.items()},
    }


def synthetic(width: int) -> torch.Tensor:
    """[4 N D]: normal, off centre, with a spectrum that falls by a power law, in a random basis."""
    generator = torch.Generator().manual_seed(width)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    spectrum = torch.arange(1, width + 1) ** -0.5
    x = torch.randn(4, N, width, generator=generator) * spectrum @ basis + torch.randn(width, generator=generator) / 20
    return x / x.std()


def environment(name: str, *alone: str) -> str:
    """The Python of an environment that holds a peer and our version of torch, made when it is first asked for.

    `peers/NAME.txt` says what is installed there; packages that are named here come without what they depend on.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outcrop" / "peers" / name
    python = root / "bin" / "python"
    if not (root / "complete").exists():
        print(f"making an environment for {name} in {root}", file=sys.stderr)
        venv.create(root, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        torch_version = torch.__version__.split("+")[0]
        subprocess.run([*install, f"torch=={torch_version}"], check=True)
        subprocess.run([*install, "--requirement", str(HERE / "peers" / f"{name}.txt")], check=True)
        for package in alone:
            subprocess.run([*install, "--no-deps", package], check=True)
        (root / "complete").touch()
    return str(python)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, three rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--latents", type=int, nargs="+", default=LATENTS)
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS, choices=OPTIMIZERS)
    parser.add_argument("--contenders", nargs="+", help="only these; outcrop and floor are always there")
    parser.add_argument("--peer-python", help="the Python of an environment that holds eai-sparsify")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    widths, latents, rounds = options.widths, options.latents, options.rounds
    names = {"outcrop", "floor", *(options.contenders or ("sparsify", "autocast", "tuned"))}
    if options.quick:
        widths, latents, rounds, names = (512,), (8192,), 3, names - {"tuned"}
    entrants = [one for one in contenders(options.peer_python or environment("sparsify")) if one.name in names]
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for d, m, optimizer in itertools.product(widths, latents, options.optimizers):
            inputs = Path(folder) / f"{d}.pt"
            if not inputs.exists():
                torch.save(synthetic(d), inputs)
            case = {"d": d, "m": m, "k": K, "optimizer": optimizer, "inputs": str(inputs)}
            cases.append(measure(case, rounds, entrants, options.threads))
            print(json.dumps(cases[-1]), flush=True)
    about = {"n": N, "k": K, "threads": options.threads, "torch": torch.__version__, "rounds": rounds}
    print(json.dumps({**about, "cases": cases}))


if __name__ == "__main__":
    main()
