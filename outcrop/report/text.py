"""Foreign text and numbers, made fit to be read: nothing hidden, nothing endless, nothing rounded away.

Corpus text, explanations and failure details are hostile. Control and format characters (which
could hide or reorder text) become visible placeholders; escaping itself is jinja's.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

from outcrop.interp.explainers.telling import WHOLE

_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}  # the usual space is not looked at
_BLANK = re.compile("[\u115f\u1160\u3164\uffa0\U000e0100-\U000e01ef]")  # letters and marks of which nothing is seen
_JOINERS = "\u200c\u200d"  # of emoji and of Persian and Indic script; harmless
_UNUSUAL = re.compile("[^ -~]")
PLACEHOLDER = "[↵⇥␍␣]|⟨[^⟨⟩]{1,40}⟩"  # a pattern of Python's and of JavaScript's
_ROUNDING = 1e-12  # below it a difference of rates is 0, but for the floats
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def visible(text: str, limit: int) -> str:
    """The text with every hidden character shown, and cut with a note after `limit` characters, unless the note were
    longer than what it stands for."""
    cut = f"⟨{len(text) - limit:,} more characters⟩" if len(text) > limit else ""
    whole = len(text) <= limit + len(cut)
    return _UNUSUAL.sub(lambda found: _sign(found[0]), text if whole else text[:limit]) + ("" if whole else cut)


def visible_token(text: str, limit: int = 48) -> str:
    """The same for one token; the spaces of a token of nothing else are shown."""
    return "␣" * len(text[:limit]) if text and not text.strip(" ") else visible(text, limit)


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    hidden = unicodedata.category(character) in _HIDDEN and character not in _JOINERS
    if hidden or _BLANK.match(character):
        return f"⟨U+{ord(character):04X}⟩"
    return character


def foreign(text: str, limit: int = 600) -> Markup:
    """Escaped, made visible, with the placeholders set apart."""
    return marked(visible(text, limit))


def marked(text: str) -> Markup:
    """Escape text that is visible already, and set its placeholders apart."""
    parts, end = [], 0
    for match in re.finditer(PLACEHOLDER, text):
        parts += [escape(text[end : match.start()]), Markup('<span class="sign">{}</span>').format(match.group())]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def token(text: str) -> Markup:
    """One token, escaped and made visible."""
    return marked(visible_token(text))


def explained_by(explainer: str, source: str) -> str:
    """The explainer, and the band where it was shown but one."""
    return " ".join(filter(None, (explainer, source if source != WHOLE else "")))


def number(value: int | float | None) -> str:
    """Two decimals, more near 0 and 1, so that neither is shown where it was not reached."""
    if value is None:
        return "—"
    size = abs(value) if abs(value) > _ROUNDING else 0.0
    if size == 0:
        return "0.00"
    if 0.01 <= size <= 0.99 or size >= 1:
        digits = 2 if size < 10 else 1
        return f"{value:.{digits}f}".replace("-", "−")
    if size > 0.99:
        return (">" if value > 0 else "<−") + "0.9999" if size > 0.9999 else f"{value:.4f}".replace("-", "−")
    return f"{value:.2g}".replace("-", "−") if size >= 1e-3 else scientific(value)


def probability(value: float) -> str:
    """As a number, with so many digits near ½ that one sees on which side it lies."""
    return number(value) if abs(value - 0.5) >= 0.005 else f"{value:.4f}"


def scientific(value: int | float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}×{power_of_ten(int(exponent))}".replace("-", "−")


def power_of_ten(exponent: int) -> str:
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def count(value: int | float) -> str:
    return f"{value:,.0f}"


def percent(share: int | float | None) -> str:
    """In per cent, never 0% or 100% unless it is."""
    if share is None:
        return "—"
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 < share < 1 else f"{100 * share:.1f}%".replace("-", "−")


def one_in(rate: int | float) -> str:
    """A rate as people say it: 1 in 800."""
    return f"1 in {1 / rate:,.0f}" if 0 < rate < 0.4 else percent(rate)


def interval(estimate: dict[str, Any]) -> str:
    """Both ends to two decimals, rounded outwards; a narrow one near 0 as it is."""
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:
        return "no interval"
    if max(abs(low), abs(high)) >= 0.1:
        low, high = math.floor(100 * low + _ROUNDING) / 100, math.ceil(100 * high - _ROUNDING) / 100
    return f"[{number(low)}, {number(high)}]"
