"""Explanations that people or other tools wrote, from a file of JSON lines.

    {"latent": 12, "text": "names of fruit"}
    {"latent": 12, "text": "…", "coder": "…", "explainer": "neuronpedia", "source": "all"}

`coder` may be left out where there is only one; `explainer` is "given", `source` "all" if not said otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import get_args

from outcrop.config import Explainer
from outcrop.errors import ConfigError
from outcrop.interp.explainers.telling import WHOLE
from outcrop.types import CoderKey, Explanation, LatentId

EXPLAINER = "given"

_EXPECTED = 'expected {"latent": number, "text": "…"}'


def read_explanations(path: Path, latents: Collection[LatentId]) -> list[Explanation]:
    """Those of a file. ConfigError where a line is no explanation of one of `latents`, which have examples."""
    lines = enumerate(require_readable(path).split("\n"), 1)
    found = [_explanation(f"{path}, line {i}", line, latents) for i, line in lines if line.strip()]
    for again in _repeated(found):
        raise ConfigError(f"{path} explains latent {again.latent.index} twice as {again.explainer} {again.source}")
    return found


def require_readable(path: Path) -> str:
    """The file's text; ConfigError where it has none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as explanations, JSON lines in UTF-8: {error}") from error


def _explanation(where: str, line: str, latents: Collection[LatentId]) -> Explanation:
    try:
        said = json.loads(line)
        index, text, coder = said["latent"], said["text"], said.get("coder")
        explainer, source = said.get("explainer", EXPLAINER), said.get("source", WHOLE)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where} is {line[:80]!r}; {_EXPECTED} ({type(error).__name__}: {error})") from error
    if type(index) is not int or not all(map(_is_text, (text, explainer, source, coder or ""))):
        raise ConfigError(f"{where} is {line[:80]!r}; {_EXPECTED}")
    text = text.strip()
    if not text:
        raise ConfigError(f"{where} explains latent {index} with no text")
    if explainer in get_args(Explainer):
        raise ConfigError(f"{where} calls its explainer {explainer}, as one of ours; give it another name")
    latent = LatentId(_coder(where, coder, latents), index)
    if latent not in latents:
        raise ConfigError(
            f"{where} explains latent {index} of {latent.coder}, which was not selected; "
            f"--select.latents names those that are to be scored"
        )
    return Explanation(latent, explainer, source, text, "")


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


def _repeated(explanations: list[Explanation]) -> Iterator[Explanation]:
    seen = set()
    for one in explanations:
        key = one.latent, one.explainer, one.source
        if key in seen:
            yield one
        seen.add(key)
