"""Explanations without an LLM: the token types that set a latent off, as counted on the explain documents."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator

from jaxtyping import Int64
from numpy import ndarray

from outcrop.interp.explainers.telling import WHOLE
from outcrop.types import Explanation, Failure, TokenEvidence, Vocabulary


def token_rules(
    evidence: Iterable[TokenEvidence], vocabulary: Vocabulary, explainers: Collection[str]
) -> Iterator[Explanation]:
    """Per latent and explainer one explanation, or a failure where no token sets the latent off, or where it is no
    pure token latent."""
    for one in evidence:
        text = _phrase(one.triggers, vocabulary) if len(one.triggers) else None
        if "token_rule" in explainers:
            failure = None if text else Failure("input", "no token sets it off ten times as often as others do")
            yield _explanation(one, "token_rule", text, failure)
        if "single_token" in explainers:
            pure = text if one.pure else None
            failure = None if pure else Failure("input", "it is no pure token latent")
            yield _explanation(one, "single_token", pure, failure)


def _phrase(triggers: Int64[ndarray, "triggers"], vocabulary: Vocabulary) -> str:
    """Each word once, whatever the spaces around it. Dots stand before one that begins in lower case without a space,
    as the rest of a word does; white space is written as in JSON."""
    goes_on: dict[str, bool] = {}
    for text in (vocabulary.text([token]) for token in triggers.tolist()):
        word = text.strip() or json.dumps(text)[1:-1]
        goes_on[word] = text[:1].islower() and goes_on.get(word, True)
    words = [f"“{'…' * more}{word}”" for word, more in goes_on.items()]
    return f"the token{'s' * (len(words) > 1)} {', '.join(words)}"


def _explanation(one: TokenEvidence, explainer: str, text: str | None, failure: Failure | None = None) -> Explanation:
    n_windows, n_tokens = len(one.windows), int(one.occurrences.sum())
    return Explanation(one.latent, explainer, WHOLE, text, "", failure, n_windows, n_tokens)
