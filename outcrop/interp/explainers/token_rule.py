"""Explanations without an LLM: the token types that set a latent off, as counted on the explain documents."""

from __future__ import annotations

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
        text = _phrase(one.triggers, vocabulary)
        if "token_rule" in explainers:
            failure = None if text else Failure("input", "no token sets it off ten times as often as others do")
            yield _explanation(one, "token_rule", text or None, failure)
        if "single_token" in explainers:
            pure = text if one.pure else ""
            failure = None if pure else Failure("input", "it is no pure token latent")
            yield _explanation(one, "single_token", pure or None, failure)


def _phrase(triggers: Int64[ndarray, "triggers"], vocabulary: Vocabulary) -> str:
    """Each word once, whatever the spaces around it; what only goes on with a word has dots before it."""
    goes_on: dict[str, bool] = {}
    for text in (vocabulary.text([token]) for token in triggers.tolist()):
        goes_on[text.strip()] = text[:1].islower() and goes_on.get(text.strip(), True)
    words = [f"“{'…' * more}{text}”" for text, more in goes_on.items() if text]
    return f"the token{'s' * (len(words) > 1)} {', '.join(words)}" if words else ""


def _explanation(one: TokenEvidence, explainer: str, text: str | None, failure: Failure | None = None) -> Explanation:
    n_windows, n_tokens = len(one.windows), int(one.occurrences.sum())
    return Explanation(one.latent, explainer, WHOLE, text, "", failure, n_windows, n_tokens)
