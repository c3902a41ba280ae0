"""Which tokens of a window are marked, where it is not the activating ones.

Marks that give nothing away lie like true ones: they are the pattern of places [w] of some activating window.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from outcrop.types import Example, LatentId, Window


def generator(latent: LatentId, *more: int) -> np.random.Generator:
    """The same for the same latent and numbers, in every run."""
    return np.random.default_rng([zlib.crc32(str(latent.coder).encode()), latent.index, *more])


def patterns(examples: Iterable[Example]) -> Bool[ndarray, "patterns w"]:
    """The true marks of windows, of which there is at least one."""
    return np.stack([example.window.fires for example in examples])


def likewise(window: Window, known: Bool[ndarray, "patterns w"], draw: np.random.Generator) -> Window:
    """The window marked by one of the patterns."""
    return _marked(window, known[draw.integers(len(known))])


def misplaced(window: Window, known: Bool[ndarray, "patterns w"], draw: np.random.Generator) -> Window | None:
    """The window with as many tokens marked as fire, but none of these; None where there are too few others.

    Marked by one of the patterns that have as many marks and leave out all firing tokens; where there is none,
    at random.
    """
    fires = window.fires
    n = int(fires.sum())
    fitting = known[(known.sum(axis=1) == n) & ~(known & fires).any(axis=1)]
    if len(fitting):
        return likewise(window, fitting, draw)
    others = np.flatnonzero(~fires)
    if len(others) < n:
        return None
    marks = np.zeros_like(fires)
    marks[draw.choice(others, size=n, replace=False)] = True
    return _marked(window, marks)


def _marked(window: Window, marks: Bool[ndarray, "w"]) -> Window:
    return replace(window, activations=marks.astype(np.float32))
