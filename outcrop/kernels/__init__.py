"""The step of a sparse coder. `reference` is the specification; other backends must equal it."""

from outcrop.kernels.reference import sparse_decode, topk_encode

__all__ = ["sparse_decode", "topk_encode"]
