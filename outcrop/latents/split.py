"""Documents are split once per run: what explainers see never comes from where judges look."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from outcrop.types import Split


def score_documents(n_documents: int, seed: int) -> Bool[ndarray, "documents"]:
    """True for the half of the documents that is for scoring; the other half is for explaining.

    Of each two documents one is drawn, so that documents put behind them move none from half to half.
    """
    first = np.random.default_rng([seed]).random((n_documents + 1) // 2) < 0.5
    return np.stack([first, ~first], axis=1).ravel()[:n_documents]


def in_split(is_score: Bool[ndarray, "..."], split: Split) -> Bool[ndarray, "..."]:
    return is_score if split == "score" else ~is_score
