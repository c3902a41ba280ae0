"""Where does the time of our training step go? Each part by itself, in seconds of clock and of CPU, medians.

    python benchmarks/parts.py [--width 512] [--latents 16384] [--threads 2]

The sizes and the synthetic activations are those of step.py. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from step import K, synthetic
from torch import nn
from torch.nn import functional as F

from outcrop import kernels
from outcrop.kernels.coarse import problems


def seconds(part: Callable[[], object], rounds: int = 9) -> tuple[float, float]:
    """By the clock, and of the time that the process was given."""
    part()
    times = []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        part()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    clock, given = (round(statistics.median(of), 4) for of in zip(*times, strict=True))
    return clock, given


def parts(width: int, m: int) -> dict[str, tuple[float, float]]:
    x, grad = synthetic(width)[:2]
    weight, bias = F.normalize(torch.randn(m, width), dim=1), torch.zeros(m)
    values, indices = kernels.topk(x, weight, bias, K)
    trained = [nn.Parameter(weight.clone()) for _ in range(2)]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    adam = torch.optim.Adam(trained, fused=True)
    half, half_weight = x.bfloat16(), weight.bfloat16()
    scores = torch.empty(len(x), m, dtype=torch.bfloat16)
    return {
        "floor": seconds(lambda: torch.mm(half, half_weight.T, out=scores)),
        "topk, all of it": seconds(lambda: kernels.topk(x, weight, bias, K)),
        "topk, rounding of both factors": seconds(lambda: list(problems(x, weight, bias))),
        "decode": seconds(lambda: kernels.weighted_rows(values, indices, weight)),
        "gradients of decode": seconds(lambda: kernels.decode_gradients(values, indices, weight, grad)),
        "gradient of the encoder": seconds(lambda: kernels.transposed_product(values, indices, x, m)),
        "Adam, both matrices": seconds(adam.step),
        "decoder normalisation": seconds(lambda: kernels.unit_rows_(weight)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--latents", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = parts(options.width, options.latents)
    for name, (clock, cpu) in found.items():
        print(f"{clock:8.4f} {cpu:8.4f}  {name}")
    print(
        json.dumps({"width": options.width, "latents": options.latents, "threads": options.threads, "seconds": found})
    )


if __name__ == "__main__":
    main()
