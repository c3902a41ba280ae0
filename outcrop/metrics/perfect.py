"""How many latents are explained perfectly, as seen and in truth.

    perfect share           latents with every judgement right / latents; expected: mean over latents of Π_c a_c^n_c
    share truly above 0.9   P((TPR + TNR) / 2 > 0.9) in the population of latents that best explains the counts

The first falls with the number of judgements by construction: a judge who is right on 99% gets all of 100 right for
37% of latents. The second does not. TPR and TNR = 1 − FPR of a latent are drawn from a mixture of pairs of Betas,

    (TPR, TNR) ~ Σ_jk ω_jk Beta(μ_j κ, (1 − μ_j) κ) × Beta(μ_k κ, (1 − μ_k) κ),     κ = 100, 20 fixed means μ,

so that the counts of right answers in the two classes are a mixture of pairs of beta-binomials, in which only ω is
unknown. It is the maximum-likelihood estimate (Kiefer and Wolfowitz 1956) by EM (Laird 1978), a convex problem,
smoothed by the width of the Betas and by stopping after 150 steps.

Why a mixture: the two rates of a latent go together (broad explanations find more and claim more), and populations are
often bimodal. One Beta for each rate is off by 0.06 to 0.11 where they correlate, one Beta for balanced accuracy by
0.12 where latents are good or useless; see tests/proofs/perfect.py. The price is paid where all latents crowd within
about 0.03 of the threshold: all at 0.92 give 0.85 instead of 1 from 20 + 20 judgements, and the interval leaves 1 out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from numpy import ndarray
from scipy import special

from outcrop.metrics.rates import Estimate

TRULY_GOOD = 0.9
INTERVAL_LATENTS = 50  # with fewer, the bootstrap is too narrow where nearly all or nearly no latents are good
_KAPPA = 100
_MEANS = np.sin(np.linspace(np.arcsin(np.sqrt(0.02)), np.arcsin(np.sqrt(0.98)), 20)) ** 2  # equal steps of spread
_STEPS = 150
_DRAWS = 200  # each is a fit
_SIZES_PER_DOUBLING = 4
_CHUNK = 2**22  # numbers of resampled tables held at once
_MISSING = Estimate(np.array(np.nan), np.array(np.nan), np.array(np.nan))


# -- as seen -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PerfectShare:
    """The share among scored latents (failed ones with them), alive ones, and all. A latent that was not scored
    counts as imperfect; where only a sample was, the share of alive and of all latents is a lower bound."""

    of_scored: Estimate
    of_alive: Estimate
    of_all: Estimate
    n_examples: int
    """The judgements that each had to get right."""


def perfect_share(
    right: Int[ndarray, "N"],
    n: Int[ndarray, "N"],
    enough: Bool[ndarray, "N"],
    n_alive: int,
    n_all: int,
    confidence: float,
) -> PerfectShare:
    """Of N latents that were to be scored, with right answers among n judgements each; Wilson intervals.

    enough: whether the latent has the required judgements (20 activating and 20 non-activating, say). Without
    them it is imperfect, as a failed latent is.

    Raises:
        ValueError: the latents with enough judgements differ in their number, with which the share falls.
    """
    sizes = np.unique(n[enough])
    if len(sizes) > 1:
        raise ValueError(
            f"latents have {sizes[0]} to {sizes[-1]} judgements; take the same number of each, since the share of "
            "perfect latents falls with it"
        )
    perfect = int(np.sum(enough & (right == n) & (n > 0)))
    scored, alive, everything = (wilson(perfect, total, confidence) for total in (len(n), n_alive, n_all))
    return PerfectShare(scored, alive, everything, n_examples=int(sizes.max(initial=0)))


def wilson(hits: int, n: int, confidence: float) -> Estimate:
    """Wilson (1927) interval of hits of n, where 0 of n still leaves a little; NaN where n is 0."""
    if n == 0:
        return _MISSING
    p, z = hits / n, special.ndtri((1 + confidence) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (p if hits == 0 else centre - reach), (p if hits == n else centre + reach)
    return Estimate(np.array(p), np.array(low), np.array(high))


def expected_perfect_share(accuracy: Float[ndarray, "... C"], n: Int[ndarray, "... C"]) -> Float[ndarray, "..."]:
    """Π_c a_c^n_c: the chance that n_c independent judgements of accuracy a_c are right in every cell c."""
    return np.asarray(np.prod(np.power(accuracy, n), axis=-1))


# -- in truth ------------------------------------------------------------------------------------------------


def share_truly_above(
    hits: Real[ndarray, "N"],
    n_activating: Real[ndarray, "N"],
    rejections: Real[ndarray, "N"],
    n_non_activating: Real[ndarray, "N"],
    generator: np.random.Generator,
    confidence: float,
    threshold: float = TRULY_GOOD,
) -> Estimate:
    """The share of latents whose true balanced accuracy exceeds the threshold; interval: latents redrawn.

    hits of n_activating windows, rejections (correct) of n_non_activating. Counts can be fractional: for stratified
    judgements take p̂ n_eff of n_eff, `size` in `outcrop.metrics.rates.Rate` (for rejections, of which FPR counts the
    opposite, (1 − p̂) n_eff). Latents not judged in both classes are left out; without any other the share
    is missing. There is no interval with fewer than 50 latents, nor where all have the same counts.
    """
    known = (n_activating > 0) & (n_non_activating > 0)
    if not known.any():
        return _MISSING
    row, first = _likelihoods(hits[known], n_activating[known])
    column, second = _likelihoods(rejections[known], n_non_activating[known])
    table = np.bincount(row * len(second) + column, minlength=len(first) * len(second))
    above, n = _pairs_above(threshold), int(known.sum())
    value = np.asarray(_share(table[None] / n, first, second, above)[0])
    if n < INTERVAL_LATENTS or np.count_nonzero(table) == 1:
        return Estimate(value, _MISSING.low, _MISSING.high)
    chunk = max(1, _CHUNK // table.size)
    sizes = [min(chunk, _DRAWS - done) for done in range(0, _DRAWS, chunk)]
    resampled = (generator.multinomial(n, table / n, size=size) / n for size in sizes)
    draws = np.concatenate([_share(tables, first, second, above) for tables in resampled])
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, np.asarray(min(low, value)), np.asarray(max(high, value)))


def _likelihoods(right: ndarray, n: ndarray) -> tuple[Int[ndarray, "N"], Float[ndarray, "U J"]]:
    """The distinct counts U of one class: which is each latent's, and how likely under each Beta, up to a factor.

    Latents of like n whose rarer answers round alike share one likelihood, at their mean: exact for
    whole counts of one n.
    """
    misses = n - right
    rarer = np.rint(np.where(right < misses, right, -1 - misses)).astype(np.int64)
    like = np.rint(_SIZES_PER_DOUBLING * np.log2(n)).astype(np.int64)
    _, place = np.unique(np.stack([rarer, like]), axis=1, return_inverse=True)
    size = np.bincount(place)
    hits, misses = (np.bincount(place, part) / size for part in (right, misses))
    a, b = _MEANS * _KAPPA, (1 - _MEANS) * _KAPPA
    log = special.betaln(hits[:, None] + a, misses[:, None] + b) - special.betaln(a, b)
    return place, np.exp(log - log.max(axis=1, keepdims=True))


@cache
def _pairs_above(threshold: float) -> Float[ndarray, "J J"]:
    """P((x + y) / 2 > threshold), x and y of two Betas; by the midpoint rule over quantiles of x."""
    a, b = _MEANS * _KAPPA, (1 - _MEANS) * _KAPPA
    x = special.betaincinv(a[:, None], b[:, None], (np.arange(200) + 0.5) / 200)
    rest = np.clip(2 * threshold - x, 0, 1)
    return np.asarray(special.betaincc(a[:, None, None], b[:, None, None], rest).mean(-1).T)


def _share(
    tables: Float[ndarray, "D UV"], first: Float[ndarray, "U J"], second: Float[ndarray, "V J"], above: ndarray
) -> Float[ndarray, "D"]:
    """Σ ω_jk P_jk for each table of shares of latents by their two counts; EM from equal weights."""
    seen = tables.reshape(-1, len(first), len(second))
    weights = np.full((len(seen), *above.shape), 1 / above.size)
    for _ in range(_STEPS):
        likelihood = np.maximum(first @ weights @ second.T, np.finfo(float).tiny)
        weights = weights * (first.T @ (seen / likelihood) @ second)
    return np.asarray((weights * above).sum((-2, -1)))
