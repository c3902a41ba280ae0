"""Scores of TPR and FPR, and of two such pairs.

balanced accuracy    S = (TPR + 1 − FPR) / 2
informedness         J = TPR − FPR
chance-corrected     (S − S_c) / (1 − S_c), of an explanation and of its control
"""

from __future__ import annotations

from outcrop.metrics.forms import Linear, Quotient

BALANCED_ACCURACY = Linear((0.5, -0.5), 0.5)
INFORMEDNESS = Linear((1, -1))

_FAR = 1e3  # chance-corrected scores are unbounded below; their lower ends are looked for so far
CHANCE_CORRECTED = Quotient(Linear((0.5, -0.5, -0.5, 0.5)), Linear((0, 0, -0.5, 0.5), 0.5), (-_FAR, 1.0))
