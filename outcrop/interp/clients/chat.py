"""What clients have in common: prompts as tokens of a model in this process, the probabilities of labels, and the
expected values of numbers.

Where an answer's number begins, the likeliest tokens there that are numbers v, with probabilities p, give

    E = Σ v p / Σ p

A model that writes digit by digit has the same first token for 1 and 10. Where it wrote the 1, the probability of a 0
behind it parts the two; elsewhere a 1 counts as 10, which is asked for much more often.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from outcrop.types import Failure, Message, Request

_MOST_MASS = 1.01  # of probabilities together; some servers round
_TEN = 10  # the largest number that is asked for
_LEAST_MASS = 0.01  # of numbers together; below it the number that was written counts

_Words = list[tuple[str, float]]
Likeliest = Sequence[tuple[str, float]]
"""The likeliest tokens at one place: their texts and log probabilities."""


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


def label_probabilities(likeliest: Likeliest, labels: Sequence[str]) -> tuple[float, ...]:
    """Zero for a label that is not among them. ValueError if they are no probabilities."""
    words = _words(likeliest)
    return tuple(math.fsum(p for word, p in words if word == label.casefold()) for label in labels)


def expected_numbers(written: Sequence[str], likeliest: Sequence[Likeliest], largest: int) -> tuple[float, ...] | None:
    """Of the numbers from 0 to `largest`, which is 10 at most, in an answer, given its tokens and what was likeliest at
    each place; None where a number shares a token with something else. ValueError if they are no probabilities."""
    digits = [text.strip() for text in written]
    if any(re.search(r"\d", text) and not text.isdecimal() for text in digits):
        return None
    places = [_words(of) for of in likeliest]
    whole = any(word == str(_TEN) for words in places for word, _ in words)
    starts = [i for i, text in enumerate(digits) if text.isdecimal() and not (i and digits[i - 1].isdecimal())]
    return tuple(_expected(digits, places, i, largest, whole=whole) for i in starts)


def _expected(digits: Sequence[str], places: Sequence[_Words], i: int, largest: int, *, whole: bool) -> float:
    """Of the number that begins with the i-th token; `whole` where numbers are single tokens."""
    ten = 0.0 if whole or largest < _TEN else 1.0  # the share of the 1s that begin it
    if ten and digits[i] == "1":
        ten = math.fsum(p for word, p in places[i + 1] if word == "0") if i + 1 < len(places) else 0.0
    mass = total = 0.0
    for word, p in places[i]:
        if word.isdecimal() and int(word) <= largest:
            mass += p
            total += p * (ten * _TEN + 1 - ten if word == "1" else int(word))
    return total / mass if mass >= _LEAST_MASS else float(_written(digits, i))


def _written(digits: Sequence[str], i: int) -> int:
    stop = next((j for j in range(i, len(digits)) if not digits[j].isdecimal()), len(digits))
    return int("".join(digits[i:stop]))


def _words(likeliest: Likeliest) -> _Words:
    words = [(text.strip().casefold(), math.exp(logprob)) for text, logprob in likeliest]
    if not math.fsum(p for _, p in words) < _MOST_MASS:
        raise ValueError("probabilities that are more than 1 together")
    return words


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds every string that the tokenizer would read as a token that steers the model."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    strings = sorted({*added, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, strings)) if strings else r"(?!)")


def _broken(found: re.Match[str]) -> str:
    return f"{found[0][:1]} {found[0][1:]}"
