"""How much of a score the tokens alone explain.

    token illusion   FPR against same_token − FPR against random: what random negatives hide
    beyond tokens    J(explanation) − J(token baseline), on the very same windows

Both are missing where a rate is: a latent without a same_token stratum has no token illusion.
The two J of beyond tokens are drawn independently though they share their windows; they tend
to err on the same ones, so the interval is wide rather than narrow.
"""

from __future__ import annotations

import numpy as np

from outcrop.metrics.rates import Estimate, Rate, Sampling, propagate


def token_illusion(fpr_same_token: Rate, fpr_random: Rate, sampling: Sampling) -> Estimate:
    return propagate(np.subtract, (fpr_same_token, fpr_random), sampling)


def beyond_tokens(tpr: Rate, fpr: Rate, baseline_tpr: Rate, baseline_fpr: Rate, sampling: Sampling) -> Estimate:
    rates = (tpr, fpr, baseline_tpr, baseline_fpr)
    return propagate(lambda hit, alarm, hit0, alarm0: (hit - alarm) - (hit0 - alarm0), rates, sampling)
