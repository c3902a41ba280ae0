"""Documents are split once per run: what explainers see never comes from where judges look."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from outcrop.types import Split


def score_documents(n_documents: int, seed: int) -> Bool[ndarray, "documents"]:
    """True for the half of the documents that is for scoring; the other half is for explaining."""
    chosen = np.zeros(n_documents, dtype=bool)
    order = np.random.default_rng([seed, n_documents]).permutation(n_documents)
    chosen[order[: n_documents // 2]] = True
    return chosen


def in_split(is_score: Bool[ndarray, "..."], split: Split) -> Bool[ndarray, "..."]:
    return is_score if split == "score" else ~is_score
