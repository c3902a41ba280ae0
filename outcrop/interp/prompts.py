"""How windows and instructions become messages.

A corpus is hostile: a window may hold quotes, marks, or the strings that steer a chat model. Each
window is therefore one JSON string on a line of its own, in which

    << and >>          stand around activating tokens, and nowhere else (‹‹ and ›› in the text)
    <|…|>, <s>, [INST] and the like cannot occur (‹|…|›, ‹s›, (INST)), nor with the help of a mark (<<¦…¦>>, <<s >>)

so a window cannot end its quoting, mark itself or speak for somebody else.

What all prompts of a scorer share, the worked examples, comes first: a server's prefix cache and
`LocalClient` compute it once. The window comes next and the explanation behind it, so an explanation
is computed anew with each window. Everything is in turns of user and assistant, because not every
model knows a system role.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from outcrop.types import Message, Vocabulary, Window

_OPEN, _CLOSE = "\ue000", "\ue001"  # stand for the marks until the text is safe

_OPENS = re.compile(rf"<(?=[<|｜{_OPEN}{_CLOSE}])|(?<=[<{_OPEN}{_CLOSE}])<")
_CLOSES = re.compile(rf">(?=[>{_OPEN}{_CLOSE}])|(?<=[>|｜{_OPEN}{_CLOSE}])>")
_NAMES = "s|bos|eos|pad|unk|mask|sep|cls|start_of_turn|end_of_turn|start_of_image|image|think|tool_call|tool_response"
_TAG = re.compile(rf"([<{_OPEN}])(/?(?:{_NAMES}))([>{_CLOSE}])", re.IGNORECASE)
_BAR = re.compile(rf"(?<={_OPEN})[|｜]|[|｜](?={_CLOSE})")  # would make a control string with a mark
_BRACKET = re.compile(r"\[(/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS))\]", re.IGNORECASE)
_LINE_ENDS = re.compile(r"[\x7f-\x9f\u2028\u2029]")  # what JSON leaves as it is, but is no plain text


def quoted(text: str) -> str:
    """The text as one JSON string that holds no mark and no control string."""
    return _finished(_private_free(text))


def marked(window: Window, vocabulary: Vocabulary) -> str:
    """The window likewise, with each run of activating tokens `<<like this>>`."""
    strings = map(_private_free, vocabulary.strings(window.tokens))
    runs = groupby(zip(window.fires, strings, strict=True), key=lambda token: bool(token[0]))
    parts = [(fires, "".join(string for _, string in run)) for fires, run in runs]
    return _finished("".join(_OPEN + text + _CLOSE if fires else text for fires, text in parts))


def marked_words(window: Window, vocabulary: Vocabulary) -> str:
    """Its different runs of activating tokens, each quoted, in the order in which they first stand."""
    return ", ".join(dict.fromkeys(quoted(_bare(run)) for run in _runs(window, vocabulary)))


def _bare(text: str) -> str:
    """Without the white space around it, unless it is nothing else."""
    return text.strip() or text


def _private_free(text: str) -> str:
    return text.replace(_OPEN, "\ufffd").replace(_CLOSE, "\ufffd")


def _finished(text: str) -> str:
    text = _CLOSES.sub("›", _OPENS.sub("‹", text))
    text = _BRACKET.sub(r"(\1)", _BAR.sub("¦", _TAG.sub(_untagged, text)))
    line = json.dumps(text.replace(_OPEN, "<<").replace(_CLOSE, ">>"), ensure_ascii=False)
    return _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _untagged(found: re.Match[str]) -> str:
    """No control string, though marks may stand for its brackets."""
    opens, name, closes = found.groups()
    if opens == _OPEN and closes == _CLOSE:
        return f"{opens}{name} {closes}"
    return f"{opens}{name}{closes}".replace("<", "‹").replace(">", "›")


@dataclass(frozen=True)
class Evidence:
    """What an explainer is shown of a latent."""

    activating: tuple[Window, ...]
    others: tuple[Window, ...] = ()
    promoted: tuple[int, ...] = ()  # tokens that the latent makes the model write
    mistakes: Mistakes | None = None

    @property
    def windows(self) -> tuple[Window, ...]:
        return (*self.activating, *self.others, *(self.mistakes.windows if self.mistakes else ()))


@dataclass(frozen=True)
class Mistakes:
    """Where an earlier explanation was wrong."""

    explanation: str
    missed: tuple[Window, ...]  # activating ones that it was judged not to match
    matched: tuple[Window, ...]  # others that it was judged to match

    @property
    def windows(self) -> tuple[Window, ...]:
        return (*self.missed, *self.matched)


ANSWER = "Explanation:"


def explain_messages(evidence: Evidence, vocabulary: Vocabulary, *, think: bool = False) -> tuple[Message, ...]:
    """What do the marked tokens have in common, which the windows beside them lack?

    No solved examples stand before the question, because small models copy their solutions; and the marked words are
    quoted together, because they copy a list of quoted words.
    """
    sections = [*_shown(evidence, vocabulary), *_wrong(evidence.mistakes, vocabulary), _QUESTION + _THINK * think]
    return (Message("user", "\n\n".join(sections)),)


_QUESTION = "What do the marked words have in common? Answer with the name of a topic, a meaning or a kind of word."
_THINK = f' First think step by step; then write your answer on a last line of its own that begins with "{ANSWER}".'


def _shown(evidence: Evidence, vocabulary: Vocabulary) -> Iterator[str]:
    activating = sorted(evidence.activating, key=lambda window: float(window.activations.max()), reverse=True)
    runs = dict.fromkeys(_bare(run) for window in activating for run in _runs(window, vocabulary))
    yield f"These words were marked in texts: {quoted(', '.join(runs))}"
    yield _lines("Texts with marked words:", activating, vocabulary)
    if evidence.others:
        yield _lines("Texts without marked words:", evidence.others, vocabulary)
    if evidence.promoted:
        tokens = dict.fromkeys(_bare(vocabulary.text([token])) for token in evidence.promoted)
        yield f"After the marked words these become likelier: {quoted(', '.join(tokens))}"


def _wrong(mistakes: Mistakes | None, vocabulary: Vocabulary) -> Iterator[str]:
    if mistakes is None:
        return
    yield f"An earlier answer was {quoted(mistakes.explanation)}. It was not good enough."
    if mistakes.missed:
        yield _lines("It did not fit these texts with marked words:", mistakes.missed, vocabulary)
    if mistakes.matched:
        yield _lines("It did fit these texts without marked words:", mistakes.matched, vocabulary)


def _lines(heading: str, windows: Iterable[Window], vocabulary: Vocabulary) -> str:
    return "\n".join([heading, *(marked(window, vocabulary) for window in windows)])


def _runs(window: Window, vocabulary: Vocabulary) -> Iterable[str]:
    """The text of each run of activating tokens."""
    tokens = zip(window.fires, vocabulary.strings(window.tokens), strict=True)
    for fires, run in groupby(tokens, key=lambda token: bool(token[0])):
        if fires:
            yield "".join(string for _, string in run)
