"""What it takes off the effective sizes of samples that a latent's windows share documents (`metrics.clusters`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outcrop.metrics.clusters import design_effect, intraclass_correlation
from outcrop.report.judged import Judged, Verdicts


@dataclass(frozen=True)
class Design:
    """Of verdicts on one kind of windows: how they correlate within documents, and the design effects."""

    correlation: float  # over all subjects
    whole: Float[ndarray, "R"]  # of the rate over all cells of that kind
    alone: Float[ndarray, "R C"]  # of the rate in each


def design_of(judged: Judged, verdicts: Verdicts, *, activating: bool) -> Design:
    known = np.flatnonzero(~np.isnan(verdicts.predicted) & ((verdicts.cell < judged.n_quantiles) == activating))
    subject, cell, said = (column[known] for column in (verdicts.subject, verdicts.cell, verdicts.predicted))
    cluster = judged.windows.cluster[verdicts.window[known]]
    weight = (judged.weights(verdicts) / np.maximum(verdicts.counts[1], 1))[subject, cell]
    shape = verdicts.n_subjects, verdicts.n_cells
    rho = intraclass_correlation(said, subject, cell, cluster)
    each = design_effect(np.ones(len(known)), subject * shape[1] + cell, cluster, shape[0] * shape[1], rho)
    return Design(rho, design_effect(weight, subject, cluster, shape[0], rho), each.reshape(shape))
