"""How much memory does a training step need beyond what is kept, with and without micro-batches?

    python benchmarks/memory.py [--quick] [--tokens 8192] [--latents 16384] [--width 576] [--optimizer adam]

One batch of N tokens, whole and in micro-batches; each size in a process of its own. Measured is how far two
steps push the peak of resident memory, less gradients and optimizer state (weights and inputs are there before).
Prints a Markdown table in MiB, beside one N × M matrix in bfloat16; the last line is JSON, seconds of a step among it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from step import OPTIMIZERS, Contender, K, Worker

SELECTIONS = ("topk", "batchtopk", "jumprelu")
OURS = Contender("outcrop", "micro_train", sys.executable)


def measure(case: dict[str, Any], threads: int) -> dict[str, Any]:
    worker = Worker(OURS, threads)
    extra = worker.open(case)["extra_bytes"]
    seconds = statistics.median(worker.step()["seconds"] for _ in range(3))
    worker.close()
    if extra is None:
        raise SystemExit("this system does not say how much memory a process has had (/proc/self/clear_refs)")
    return {
        "selection": case["selection"],
        "micro_batch_tokens": case["micro_batch_tokens"],
        "extra_mib": round(extra / 2**20),
        "seconds": round(seconds, 4),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small batch, topk and jumprelu, whole and in quarters")
    parser.add_argument("--tokens", type=int, default=8_192)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--divide-by", type=int, nargs="+", default=(1, 2, 4, 8), help="micro-batches of a batch")
    parser.add_argument("--selections", nargs="+", default=SELECTIONS)
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.latents, options.divide_by = 2_048, 4_096, (1, 4)
        options.selections = ("topk", "jumprelu")
    return options


def main() -> None:
    options = arguments()
    sizes = {"n": options.tokens, "m": options.latents, "d": options.width, "k": K, "optimizer": options.optimizer}
    matrix = 2 * options.tokens * options.latents / 2**20
    print(f"| selection | micro-batch | extra MiB | × {matrix:.0f} MiB (N × M in bfloat16) | seconds |")
    print("|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.pt"
        torch.save(torch.randn(1, options.tokens, options.width, generator=torch.Generator().manual_seed(0)), inputs)
        for selection, parts in itertools.product(options.selections, options.divide_by):
            micro = options.tokens // parts
            case = {**sizes, "selection": selection, "micro_batch_tokens": micro, "inputs": str(inputs)}
            rows.append(measure(case, options.threads))
            extra, seconds = rows[-1]["extra_mib"], rows[-1]["seconds"]
            print(f"| {selection} | {micro:,} | {extra:,} | {extra / matrix:.2f} | {seconds:.3f} |", flush=True)
    print(json.dumps({**sizes, "threads": options.threads, "matrix_mib": round(matrix), "rows": rows}))


if __name__ == "__main__":
    main()
