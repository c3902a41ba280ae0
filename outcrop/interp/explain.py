"""Contrastive explanations: one phrase per latent, from activating windows beside others.

A reply that holds no phrase is a failure with its reason, never an explanation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from outcrop.config import ExplainConfig
from outcrop.interp.client import Client
from outcrop.interp.prompts import explain_messages
from outcrop.progress import Progress, silent
from outcrop.types import Explanation, Failure, LatentExamples, Reply, Request, Vocabulary

EXPLAINER = "contrastive"
SOURCE = "all"  # every quantile is shown

_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_LEAD_IN = re.compile(r"^(short |one |the )*(explanation|answer|phrase|description)\s*[:：]\s*", re.IGNORECASE)
_THEY = re.compile(
    r"^(they|these words|the marked words) (are|have in common|share)( all)?( that)?( related to)?:?\s+", re.IGNORECASE
)
_FILLER = re.compile(r"^(the )?(topic|concept|meaning) of ", re.IGNORECASE)
_WRAPPING = " \t`*"
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


def explain(
    examples: Sequence[LatentExamples],
    client: Client,
    vocabulary: Vocabulary,
    config: ExplainConfig,
    progress: Progress = silent,
) -> Iterator[Explanation]:
    """One explanation per latent, in order of completion."""
    shown = [latent for latent in examples if _can_be_shown(latent)]
    requests = [Request(explain_messages(latent, vocabulary), config.max_tokens) for latent in shown]
    with progress("explain", len(examples), "latents") as advance:
        for latent in examples:
            if not _can_be_shown(latent):
                advance(1)
                yield _failed(latent, "", Failure("input", "there is no activating window to show"))
        for index, answer in client.answer(requests):
            advance(1)
            yield _explanation(shown[index], requests[index].hash(client.model), answer)


def _can_be_shown(latent: LatentExamples) -> bool:
    return any(example.activating for example in latent.explain)


def _explanation(latent: LatentExamples, request: str, answer: Reply | Failure) -> Explanation:
    if isinstance(answer, Failure):
        return _failed(latent, request, answer)
    text = phrase(answer.text)
    if not text:
        return _failed(latent, request, Failure("empty", f"no phrase in the reply {answer.text[:200]!r}"))
    return Explanation(latent.latent, EXPLAINER, SOURCE, text, request)


def _failed(latent: LatentExamples, request: str, failure: Failure) -> Explanation:
    return Explanation(latent.latent, EXPLAINER, SOURCE, None, request, failure)


def phrase(reply: str) -> str:
    """The first line that says something, without quotes, lead-in and full stop."""
    for line in _THOUGHTS.sub("", reply).splitlines():
        bare = _bare(_LEAD_IN.sub("", _bare(line)))
        bare = _bare(_FILLER.sub("", _THEY.sub("", bare)))
        if any(character.isalnum() for character in bare):
            return bare
    return ""


def _bare(text: str) -> str:
    """Without spaces, emphasis, a full stop, and quotation marks around the whole."""
    text = text.strip(_WRAPPING).removesuffix(".").strip(_WRAPPING)
    if len(text) > 1 and text[1:-1].count(text[0]) == 0 and _QUOTES.get(text[0]) == text[-1]:
        return _bare(text[1:-1])
    return text
