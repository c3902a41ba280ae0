"""A benchmark's worker: opens cases, steps when told to, and answers in JSON, one line per request.

Stands alone (the standard library and torch), because it also runs in the peers' environments.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Answers have the pipe for themselves: what libraries print, some of them at import, goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

Step = Callable[[], object]
# A case as the driver describes it → its step, and the bytes of gradients and optimizer state that stay
Open = Callable[[dict[str, Any]], tuple[Step, Callable[[], int]]]


def serve(open_case: Open) -> None:
    """Answers the driver until it hangs up."""
    step: Step = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        if "open" in request:
            torch.manual_seed(0)
            step = lambda: None  # noqa: E731  # let go of the last case first
            open_case({**request["open"], "m": 64})[0]()  # loads the libraries' code, which is not to count as memory
            step, kept = open_case(request["open"])
            answer = {"extra_bytes": _extra_bytes(step, kept)}
        else:
            start, cpu = time.perf_counter(), time.process_time()
            step()
            answer = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(answer), file=ANSWERS, flush=True)


def batches(path: str) -> Callable[[], torch.Tensor]:
    """The stored batches, over and over."""
    stored, taken = torch.load(path), 0

    def following() -> torch.Tensor:
        nonlocal taken
        taken += 1
        return stored[taken % len(stored)]

    return following


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if torch.is_tensor(tensor))


def kept_bytes(parameters: list[torch.nn.Parameter], optimizers: list[torch.optim.Optimizer]) -> int:
    """Gradients and optimizer state, which belong to the method and not to the way of computing it."""
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    return bytes_of(parameters) + bytes_of(states)


def _extra_bytes(step: Step, kept: Callable[[], int]) -> int | None:
    """How far two steps push the peak of resident memory, beyond what is kept; None where the system can't say."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        step(), step()
        return None
    reset.write_text("5")
    before = _status("VmRSS")
    step(), step()
    return _status("VmHWM") - before - kept()


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
