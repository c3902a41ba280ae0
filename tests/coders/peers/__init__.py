"""Coders of other libraries, made by those libraries in environments of their own, and ours as they read them.

`make_*.py` and `read_*.py` run there, and need nothing of outcrop; what they write lies in `data`:

    data/LIBRARY/KIND/       a coder as the library saves it, and outputs.safetensors: x, codes, output by the library
    data/ours/KIND/          a coder as outcrop writes it, and outputs_LIBRARY.safetensors: the same by the library

`python -m tests.coders.peers.ours` writes the second ones' coders, before `read_*.py` runs.
"""
