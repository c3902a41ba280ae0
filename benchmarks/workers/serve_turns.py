"""A worker whose run goes on only while the driver waits for it: opens a case, then makes one turn per request.

The run is in a thread of its own and calls `passed` wherever it takes in tokens; when a turn's tokens have passed,
it is held there until it is asked for the next turn. So whatever a library's own training loop does is timed, the
start before the first token is not, and the loop need not know.

Stands alone, like `serve`, of which this takes the place.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from serve import ANSWERS

Passed = Callable[[int], None]
Run = Callable[[dict[str, Any], Passed], object]


class _Closed(Exception):
    """Ends a run whose turns are over."""


class Turns:
    """One run, held whenever `turn_tokens` more have passed, and before the first one has."""

    def __init__(self, run: Run, case: dict[str, Any]) -> None:
        self._run, self._case = run, case
        self._tokens = self._until = 0
        self._asked, self._held = threading.Semaphore(0), threading.Semaphore(0)
        self._closed = False
        self._thread = threading.Thread(target=self._whole, daemon=True)
        self._thread.start()
        self._held.acquire()

    def take(self) -> None:
        """One turn."""
        self._asked.release()
        self._held.acquire()

    def close(self) -> None:
        self._closed = True
        self._asked.release()
        self._thread.join()
        gc.collect()  # trainers and optimizers refer to each other in circles

    def _passed(self, n: int) -> None:
        if self._tokens >= self._until:
            self._until += self._case["turn_tokens"]
            self._held.release()
            self._asked.acquire()
            if self._closed:
                raise _Closed
        self._tokens += n

    def _whole(self) -> None:
        try:
            self._run(self._case, self._passed)
        except _Closed:
            return
        except BaseException:
            traceback.print_exc()
        else:
            print("the run ended before its turns did", file=sys.stderr)
        os._exit(1)


def serve(run: Run) -> None:
    """Answers the driver until it hangs up."""
    turns: Turns | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "open" in request:
            if turns:
                turns.close()
            turns = Turns(run, request["open"])
            turns.take()  # the first turn warms up: memory, kernels, and what is done once at the start
        else:
            assert turns, "no case is open"
            start, cpu = time.perf_counter(), time.process_time()
            turns.take()
            answer = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(answer), file=ANSWERS, flush=True)
    os._exit(0)  # the run that is held has nothing to put in order
