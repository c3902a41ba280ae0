"""The sparse layer's step: selections, decoding and their gradients; and counts of firings.

`reference` is the specification in plain torch, `cpu` the same compiled from C; `primitives` chooses
between them, and `functions` puts gradients on top.
"""

from outcrop.kernels.functions import centred_bias, encode, sparse_decode
from outcrop.kernels.memory import in_large_pages
from outcrop.kernels.primitives import (
    above,
    add_co_firings_,
    batchtopk,
    count_firings,
    decode_gradients,
    groupmax,
    row_products,
    signum_,
    topk,
    transposed_product,
    unit_rows_,
    weighted_rows,
)
from outcrop.kernels.reference import Codes, FiringCounts, many_fire, sampled

__all__ = [
    "Codes",
    "FiringCounts",
    "above",
    "add_co_firings_",
    "batchtopk",
    "centred_bias",
    "count_firings",
    "decode_gradients",
    "encode",
    "groupmax",
    "in_large_pages",
    "many_fire",
    "row_products",
    "sampled",
    "signum_",
    "sparse_decode",
    "topk",
    "transposed_product",
    "unit_rows_",
    "weighted_rows",
]
