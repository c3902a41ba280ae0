"""A llama.cpp server on loopback, in a process of its own: `python -m outcrop.demo.llama_server GGUF PORT NAME`.

Its module, `xllamacpp`, is found through PYTHONPATH. The process ends with the one that started it.
"""

from __future__ import annotations

import os
import sys
import time

_SLOTS, _CONTEXT_TOKENS = 2, 2_048


def serve(gguf: str, port: int, name: str) -> None:
    """Answer until the parent is gone."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.model_alias = {name}
    parameters.port = port
    parameters.n_parallel = _SLOTS
    parameters.n_ctx = _SLOTS * _CONTEXT_TOKENS
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = os.cpu_count() or 1
    server = xllamacpp.Server(parameters)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    del server


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
