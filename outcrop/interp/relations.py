"""How the explanations of a latent's activation bands relate: the judge's word on each pair, and their nearness.

    relation = the first is the same as the second, broader, narrower, or unrelated
    cosine   = of their sentence embeddings, where there is an embedder

The pairs are low and middle, middle and high, low and high. The likeliest of four letters counts, with its share of
the probability of all four; of a judge that gives no probabilities the letter that it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from outcrop.interp.clients.client import Client
from outcrop.interp.explain import BANDS
from outcrop.interp.prompts import quoted
from outcrop.interp.scorers.embedding import Row, embedded_rows
from outcrop.interp.scorers.verdicts import one_of
from outcrop.model.embed import Embedder
from outcrop.progress import Progress, silent
from outcrop.types import RELATIONS, Explanation, Failure, LatentId, Message, Relation, Reply, Request

_LABELS = ("A", "B", "C", "D")
_SHOTS = (
    ("names of fruit", "words for fruit", "A"),
    ("animals", "dogs at the park", "B"),
    ("dates in May", "dates and times of any kind", "C"),
    ("names of rivers", "closing brackets in code", "D"),
)


def relate(
    explanations: Sequence[Explanation],
    client: Client,
    embedder: Embedder | None = None,
    progress: Progress = silent,
) -> Iterator[Relation]:
    """One relation per pair of bands of a latent and explainer that both have a text, in order of completion."""
    pairs = list(_pairs(explanations))
    nearness = _cosines([pair for _, pair in pairs], embedder)
    requests = [_request(*pair) for _, pair in pairs]
    with progress("relate", len(pairs), "pairs") as advance:
        for index, answer in client.answer(requests):
            advance(1)
            relation, _ = pairs[index]
            asked = replace(relation, request=requests[index].hash(client.model), cosine=nearness[index])
            yield _told(asked, answer)


def _pairs(explanations: Sequence[Explanation]) -> Iterator[tuple[Relation, tuple[str, str]]]:
    texts: dict[tuple[LatentId, str], dict[str, str]] = {}
    for one in explanations:
        if one.source in BANDS and one.text is not None:
            texts.setdefault((one.latent, one.explainer), {})[one.source] = one.text
    for (latent, explainer), of in texts.items():
        for first, second in combinations([band for band in BANDS if band in of], 2):
            yield Relation(latent, explainer, first, second), (of[first], of[second])


def _request(first: str, second: str) -> Request:
    solved = (
        message
        for *texts, answer in _SHOTS
        for message in (_message(*map(quoted, texts)), Message("assistant", answer))
    )
    return Request((*solved, _message(quoted(first), quoted(second))), max_tokens=1, labels=_LABELS)


def _message(first: str, second: str) -> Message:
    options = "A the same as, B broader than, C narrower than, D unrelated to"
    return Message(
        "user",
        f"Description 1: {first}\nDescription 2: {second}\n"
        f"What description 1 describes is {options} what description 2 describes. Answer A, B, C or D.",
    )


def _told(relation: Relation, answer: Reply | Failure) -> Relation:
    said = answer if isinstance(answer, Failure) else one_of(answer, _LABELS)
    match said:
        case Failure():
            return replace(relation, failure=said)
        case int():
            return replace(relation, relation=RELATIONS[said])
        case _:
            likeliest = int(np.argmax(said))
            return replace(relation, relation=RELATIONS[likeliest], probability=said[likeliest])


def _cosines(pairs: Sequence[tuple[str, str]], embedder: Embedder | None) -> list[float | None]:
    if embedder is None or not pairs:
        return [None] * len(pairs)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    row = dict(zip(texts, embedded_rows(texts, embedder), strict=True))
    return [_cosine(row[first], row[second]) for first, second in pairs]


def _cosine(first: Row, second: Row) -> float | None:
    """None where one of them has no embedding."""
    return None if isinstance(first, Failure) or isinstance(second, Failure) else float(first @ second)
