"""Explanations that people or other tools wrote, from a file of JSON lines.

    {"latent": 12, "text": "names of fruit"}
    {"latent": 12, "text": "…", "coder": "…", "explainer": "neuronpedia", "source": "all"}

`coder` may be left out where there is only one; `explainer` is "given", `source` "all" if not said otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from outcrop.config import Explainer
from outcrop.errors import ConfigError
from outcrop.interp.explainers.telling import WHOLE
from outcrop.types import CoderKey, Explanation, LatentId

EXPLAINER = "given"

_KEYS = ("latent", "text", "coder", "explainer", "source")
_EXPECTED = 'expected {"latent": number, "text": "…"}'


@dataclass(frozen=True)
class _Line:
    """What a line says, before it is known which latents there are."""

    where: str
    latent: int
    text: str
    coder: str | None
    explainer: str
    source: str


def read_explanations(path: Path, latents: Collection[LatentId]) -> list[Explanation]:
    """Those of a file. ConfigError where a line is no explanation of one of `latents`, which have examples."""
    found: dict[tuple[LatentId, str, str], Explanation] = {}
    for line in _lines(path):
        one = _explanation(line, latents)
        key = one.latent, one.explainer, one.source
        if key in found:
            raise ConfigError(
                f"{line.where} explains latent {line.latent} twice, again as {line.explainer} {line.source}"
            )
        found[key] = one
    return [*found.values()]


def require_explanations(path: Path) -> None:
    """ConfigError where the file cannot be read, has no explanation, or a line is none of any latent."""
    _lines(path)


def _lines(path: Path) -> list[_Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as explanations, JSON lines in UTF-8: {error}") from error
    found = [_line(f"{path}, line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found:
        raise ConfigError(f"{path} holds no explanation; {_EXPECTED} on each line")
    return found


def _line(where: str, line: str) -> _Line:
    try:
        said = json.loads(line)
        found = _Line(
            where,
            said["latent"],
            said["text"],
            said.get("coder"),
            said.get("explainer", EXPLAINER),
            said.get("source", WHOLE),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where} is {line[:80]!r}; {_EXPECTED} ({type(error).__name__}: {error})") from error
    unknown = [key for key in said if key not in _KEYS]
    if unknown:
        raise ConfigError(f"{where} has a {unknown[0][:40]!r}; there may be {', '.join(_KEYS)}")
    texts = (found.text, found.explainer, found.source, found.coder or "")
    if type(found.latent) is not int or not all(map(_is_text, texts)):
        raise ConfigError(f"{where} is {line[:80]!r}; {_EXPECTED}")
    if not (found.explainer.strip() and found.source.strip()):
        raise ConfigError(f"{where} has no explainer or source; leave the key out, or say who explained")
    if not found.text.strip():
        raise ConfigError(f"{where} explains latent {found.latent} with no text")
    if found.explainer in get_args(Explainer):
        raise ConfigError(f"{where} calls its explainer {found.explainer}, as one of ours; give it another name")
    return found


def _explanation(line: _Line, latents: Collection[LatentId]) -> Explanation:
    latent = LatentId(_coder(line.where, line.coder, latents), line.latent)
    if latent not in latents:
        raise ConfigError(
            f"{line.where} explains latent {latent.index} of {latent.coder}, which was not selected; "
            f"--select.latents names those that are to be scored"
        )
    return Explanation(latent, line.explainer, line.source, line.text.strip(), "")


def _is_text(value: object) -> bool:
    """That no file could hold half a surrogate pair is known before it is stored."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def _coder(where: str, name: str | None, latents: Collection[LatentId]) -> CoderKey:
    coders = {str(latent.coder): latent.coder for latent in latents}
    if name is None and len(coders) == 1:
        return next(iter(coders.values()))
    if name not in coders:
        raise ConfigError(f"{where} names the coder {name}; there are {', '.join(sorted(coders))}")
    return coders[name]
