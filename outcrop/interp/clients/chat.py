"""What clients have in common: prompts as tokens of a model in this process, and the probabilities of labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from outcrop.types import Failure, Message, Request

_MOST_MASS = 1.01  # of probabilities together; some servers round


class ChatTokens:
    """Messages → the tokens of a prompt, by the model's chat template, or as plain turns where it has none."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = _special_tokens(tokenizer)

    def __call__(self, messages: Sequence[Message]) -> list[int]:
        turns = [{"role": m.role, "content": self._special.sub(_broken, m.content)} for m in messages]
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        text = "".join(f"{turn['role']}: {turn['content']}\n\n" for turn in turns) + "assistant:"
        return list(self._tokenizer(text)["input_ids"])


def misfits(prompts: Sequence[Sequence[int]], requests: Sequence[Request], limit: int) -> dict[int, Failure]:
    """Which prompts are too long for a model that reads `limit` tokens, its answer included."""
    return {
        index: Failure("input", f"a prompt of {len(prompt)} tokens; the model reads {limit}, the answer included")
        for index, (prompt, request) in enumerate(zip(prompts, requests, strict=True))
        if len(prompt) + request.max_tokens > limit
    }


def label_probabilities(likeliest: Iterable[tuple[str, float]], labels: Sequence[str]) -> tuple[float, ...]:
    """From (token's text, its log probability) of the likeliest tokens; zero for a label that is not among them.
    ValueError if they are no probabilities."""
    words = [(text.strip().casefold(), math.exp(logprob)) for text, logprob in likeliest]
    if not math.fsum(p for _, p in words) < _MOST_MASS:
        raise ValueError("probabilities that are more than 1 together")
    return tuple(math.fsum(p for word, p in words if word == label.casefold()) for label in labels)


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds every string that the tokenizer would read as a token that steers the model."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    strings = sorted({*added, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, strings)) if strings else r"(?!)")


def _broken(found: re.Match[str]) -> str:
    return f"{found[0][:1]} {found[0][1:]}"
