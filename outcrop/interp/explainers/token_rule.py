"""Explanations without an LLM: the token types that set a latent off.

    triggers   P(fire | t) ≥ 10 r, by falling share of the firings, at most 16

counted on the explain documents. A *pure token latent* has triggers that cover half of its firings and on every
one of which it fires: P(fire | t) ≥ 0.99.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from outcrop.interp.explainers.telling import WHOLE
from outcrop.types import Explanation, Failure, TokenEvidence, Vocabulary

_LIFT, _MOST, _PURE, _COVER = 10.0, 16, 0.99, 0.5


def token_rules(
    evidence: Iterable[TokenEvidence], vocabulary: Vocabulary, explainers: Collection[str]
) -> Iterator[Explanation]:
    """Per latent and explainer one explanation, or a failure where no token sets the latent off, or where it is no
    pure token latent."""
    for one in evidence:
        triggers = _triggers(one)
        text = _phrase(triggers, vocabulary)
        if "token_rule" in explainers:
            failure = None if text else Failure("input", "no token sets it off ten times as often as others do")
            yield _explanation(one, "token_rule", text or None, failure)
        if "single_token" in explainers:
            pure = text if _is_pure(one, triggers) else ""
            failure = None if pure else Failure("input", "it is no pure token latent")
            yield _explanation(one, "single_token", pure or None, failure)


def _triggers(one: TokenEvidence) -> Int64[ndarray, "triggers"]:
    rate = one.fired.sum() / max(1, one.occurrences.sum())
    candidates = np.flatnonzero((one.fired > 0) & (one.fired >= _LIFT * rate * one.occurrences))
    return candidates[np.argsort(-one.fired[candidates], kind="stable")][:_MOST]


def _is_pure(one: TokenEvidence, triggers: Int64[ndarray, "triggers"]) -> bool:
    fired, occurrences = one.fired[triggers], one.occurrences[triggers]
    return bool(fired.sum() >= _COVER * one.fired.sum() and (fired >= _PURE * occurrences).all())


def _phrase(triggers: Int64[ndarray, "triggers"], vocabulary: Vocabulary) -> str:
    texts = dict.fromkeys(vocabulary.text([token]).strip() for token in triggers.tolist())
    words = [f"“{text}”" for text in texts if text]
    return f"the token{'s' * (len(words) > 1)} {', '.join(words)}" if words else ""


def _explanation(one: TokenEvidence, explainer: str, text: str | None, failure: Failure | None = None) -> Explanation:
    n_windows, n_tokens = len(one.windows), int(one.occurrences.sum())
    return Explanation(one.latent, explainer, WHOLE, text, "", failure, n_windows, n_tokens)
