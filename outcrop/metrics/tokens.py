"""How much of a score the tokens alone explain.

    token illusion   FPR against same_token − FPR against random: what random negatives hide
    beyond tokens    J(explanation) − J(token baseline), on the very same windows

Same-token windows are few, so that J hardly falls for a rule that takes them all for matches: of a latent that needs
context, beyond tokens is near 0 even for the true rule. With J against same_token alone it is not.

Both are missing where a rate is: a latent without a same_token stratum has no token illusion.
The two J of beyond tokens are taken for independent though they share their windows; they tend
to err on the same ones, so the interval is wide rather than narrow.
"""

from __future__ import annotations

from outcrop.metrics.forms import Linear

TOKEN_ILLUSION = Linear((1, -1))  # of FPR against same_token and against random
BEYOND_TOKENS = Linear((1, -1, -1, 1))  # of TPR and FPR of the explanation, and of the token baseline
