"""delphi's detection of made-up windows at a server, through its pipeline; one step scores all latents."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Any

from serve import Step, serve  # first, so that what delphi prints at import does not go among the answers

# isort: split
import no_vllm  # noqa: F401  # before delphi

# isort: split
import torch
from delphi.clients import OpenRouter
from delphi.latents import ActivatingExample, LatentRecord, NonActivatingExample
from delphi.latents.latents import Latent
from delphi.pipeline import Pipeline
from delphi.scorers import DetectionScorer
from given import WINDOW, words


def open_case(case: dict[str, Any]) -> tuple[Step, Any]:
    logging.getLogger("delphi").setLevel(logging.ERROR)
    known, draw = words(), random.Random(0)
    records = [_record(i, case["n_windows"], known, draw) for i in range(min(case["latents"], case["m"]))]
    return lambda: asyncio.run(_score(records, case)), lambda: 0


async def _score(records: list[LatentRecord], case: dict[str, Any]) -> None:
    client = OpenRouter("slots", api_key="none", base_url=f"{case['address']}/chat/completions", max_tokens=8)
    scorer = DetectionScorer(client, n_examples_shown=1)
    results = await Pipeline(lambda: _given(records), scorer).run(max_concurrent=case["slots"])
    judged = [one for result in results for one in result.score]
    assert len(judged) == len(records) * case["n_windows"]
    assert all(one.prediction for one in judged)


def _given(records: list[LatentRecord]) -> Iterator[LatentRecord]:
    yield from records


def _record(index: int, n_windows: int, known: list[str], draw: random.Random) -> LatentRecord:
    record = LatentRecord(Latent("place", index), explanation="names of fruit")
    for i in range(n_windows):
        tokens = torch.tensor([draw.randrange(8000) for _ in range(WINDOW)])
        texts = [known[token] for token in tokens.tolist()]
        activations = torch.zeros(WINDOW)
        activations[: i % 2] = 1.0
        if i % 2:
            record.test.append(ActivatingExample(tokens, activations, activations, texts, 1))
        else:
            record.not_active.append(NonActivatingExample(tokens, activations, texts))
    return record


if __name__ == "__main__":
    serve(open_case)
