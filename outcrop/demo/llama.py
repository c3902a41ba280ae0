"""Starting and stopping the demo's llama.cpp server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.request import urlopen

from outcrop.errors import JudgeError

_START_SECONDS = 120


@contextmanager
def llama_server(module: Path, gguf: Path, port: int, name: str) -> Iterator[str]:
    """Within, the address at which the model answers, under this name. `module` is the folder with `xllamacpp`."""
    command = [sys.executable, "-m", "outcrop.demo.llama_server", str(gguf), str(port), name]
    path = os.pathsep.join(filter(None, (str(module), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait(process, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: object) -> None:
    """Until the model is loaded."""
    for _ in range(_START_SECONDS * 5):
        if process.poll() is not None:
            break
        if _is_ready(port):
            return
        time.sleep(0.2)
    raise JudgeError(
        f"the llama.cpp server did not start on port {port} ({_last_line(log)}). "
        "Is the port taken? --port names another."
    )


def _is_ready(port: int) -> bool:
    """Not while nobody listens, and not while the model is being loaded."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def _last_line(log: object) -> str:
    log.seek(0)  # type: ignore[attr-defined]
    lines = log.read().decode(errors="replace").strip().splitlines()  # type: ignore[attr-defined]
    return lines[-1] if lines else "it printed nothing"
