"""The token baseline: how far a rule without context and without an LLM gets.

    p̂_t = (fired_t + r) / (n_t + 1),   p(window) = 1 − Π_t (1 − p̂_t)

counted on the explain documents, with the threshold that maximises J there. It judges the
very windows that the LLM judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray

from outcrop.schema import TOKEN_BASELINE
from outcrop.types import Judgement, LatentExamples, TokenEvidence


@dataclass(frozen=True)
class TokenRule:
    """A probability of firing per token type, and the window probability from which on it says yes."""

    log_miss: Float64[ndarray, "types"]  # log(1 − p̂_t)
    unseen: float  # the same for a type that the explain documents lack
    threshold: float

    def probability(self, tokens: Int[ndarray, "windows w"]) -> Float64[ndarray, "windows"]:
        known = tokens < len(self.log_miss)
        log_miss = np.where(known, self.log_miss[np.where(known, tokens, 0)], self.unseen)
        return -np.expm1(log_miss.sum(axis=-1))


def fit_rule(evidence: TokenEvidence) -> TokenRule:
    """The rule of one latent."""
    rate = evidence.fired.sum() / evidence.occurrences.sum()
    p = (evidence.fired + rate) / (evidence.occurrences + 1)
    rule = TokenRule(np.log1p(-np.minimum(p, 1 - 1e-12)), float(np.log1p(-rate)), threshold=0.0)
    return TokenRule(rule.log_miss, rule.unseen, _best_threshold(rule.probability(evidence.windows), evidence.fires))


def token_baseline(examples: Iterable[LatentExamples], evidence: Iterable[TokenEvidence]) -> Iterator[Judgement]:
    """One judgement per scored window; `evidence` stands in the order of the examples."""
    for latent, known in zip(examples, evidence, strict=True):
        rule = fit_rule(known)
        probability = rule.probability(np.stack([example.window.tokens for example in latent.score]))
        for example, p in zip(latent.score, probability, strict=True):
            yield Judgement(
                latent.latent,
                TOKEN_BASELINE,
                "plain",
                "",
                "",
                example.index,
                probability=float(p),
                predicted=bool(p >= rule.threshold),
            )


def _best_threshold(probability: Float64[ndarray, "windows"], fires: ndarray) -> float:
    """The window probability at or above which TPR − FPR is largest; the highest of equals."""
    candidates = np.unique(probability)
    positive, negative = np.sort(probability[fires]), np.sort(probability[~fires])
    tpr = 1 - np.searchsorted(positive, candidates) / max(1, len(positive))
    fpr = 1 - np.searchsorted(negative, candidates) / max(1, len(negative))
    informedness = tpr - fpr
    return float(candidates[len(candidates) - 1 - np.argmax(informedness[::-1])])
