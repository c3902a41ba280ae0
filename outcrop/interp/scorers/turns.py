"""Some of a latent's windows, from all its quantiles and strata by turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np

from outcrop.types import Example


def shuffle(examples: Sequence[Example], draw: np.random.Generator) -> list[Example]:
    return [examples[i] for i in draw.permutation(len(examples))]


def in_turn(examples: Iterable[Example]) -> list[Example]:
    """By turns one of each quantile or stratum as long as it has any, in the order in which they come."""
    groups: dict[object, list[Example]] = {}
    for example in examples:
        groups.setdefault((example.quantile, example.stratum), []).append(example)
    return [example for turn in zip_longest(*groups.values()) for example in turn if example is not None]
