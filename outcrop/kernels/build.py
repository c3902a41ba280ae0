"""Compiles `cpu.c` at first use and loads it.

The library lies in the user's cache folder under a hash of all that it depends on: source, command,
compiler, CPU and torch. It is written under a temporary name and renamed, so that processes that
compile it at the same time do no harm.

C, not Numba or torch's C++ extensions: no warm-up in every process, the CPU's dot products of int8, a
second to compile, and the OpenMP calls stay undefined in the library, so that they bind to the libgomp
which torch has loaded: one pool of threads for both.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("cpu.c")
# Position-independent, for this very CPU; -fno-math-errno lets square roots and the like become vectors.
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC"]

Argument = Tensor | ctypes.Structure | int | float

log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (said once) where they cannot be had."""
    try:
        compiler = os.environ.get("CC", "cc")
        path = _cache_folder() / f"cpu-{_key(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        log.warning("The CPU kernels could not be compiled; plain torch is used, which is slower. Reason: %s", reason)
        return None


def call(name: str, *arguments: Argument) -> int:
    """A kernel's result; tensors go as pointers and must be contiguous, and the number of threads goes last."""
    kernels = library()
    assert kernels is not None
    return int(kernels[name](*map(_as_c, arguments), ctypes.c_int64(torch.get_num_threads())))


def _as_c(argument: Argument) -> object:
    match argument:
        case Tensor():
            assert argument.is_contiguous()
            return ctypes.c_void_p(argument.data_ptr())
        case ctypes.Structure():
            return ctypes.byref(argument)
        case int():
            return ctypes.c_int64(argument)
        case float():
            return ctypes.c_float(argument)


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "outcrop" / "kernels"


def _key(compiler: str) -> str:
    version = _run([compiler, "--version"])
    parts = [SOURCE.read_text(), " ".join(FLAGS), version, _cpu(), torch.__version__]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """What -march=native depends on: a cache folder may be shared between machines."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    return next((line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), "")


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        compiled, linked = Path(folder) / "cpu.o", Path(folder) / "cpu.so"
        _run([compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)])
        # Linked without -fopenmp, which would bring in a second libgomp.
        _run([compiler, "-shared", str(compiled), "-o", str(linked), "-lm"])
        linked.rename(path)


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
