"""delphi's records of the same latents, from its cache on disk: its `LatentDataset`, iterated as its pipeline does,
which runs loader, constructor and sampler at their default settings.

With neighbours, these are found anew at every step, by co-occurrence. That code asks for a GPU; here the tensors that
it would move there stay where they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serve import Step, serve  # first, so that what sparsify prints at import does not go among the answers

# isort: split
import torch
from delphi.config import ConstructorConfig, SamplerConfig
from delphi.latents import LatentDataset, LatentRecord
from delphi.latents.neighbours import NeighbourCalculator
from delphi_caching import caching, folder
from given import EXPLAIN, NEGATIVES, QUANTILES, SCORE, WINDOW, give_back_memory, words
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

PLACE = "place"
Records = dict[int, dict[str, float]]


def open_case(case: dict[str, Any]) -> tuple[Step, Any]:
    logging.getLogger("delphi").setLevel(logging.ERROR)  # in the coder that warms up, hardly a window is left
    caching(case)()
    tokenizer, records = _tokenizer(), Path(case["folder"]) / "records.json"
    make = {"random": _build, "neighbours": _with_neighbours}[case["negatives"]]
    step: Callable[[], object] = lambda: records.write_text(json.dumps(asyncio.run(make(case, tokenizer))))  # noqa: E731
    give_back_memory()
    return step, lambda: 0


def _with_neighbours(case: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Awaitable[Records]:
    torch.Tensor.cuda = lambda tensor: tensor  # type: ignore[method-assign]
    neighbours = folder(case) / "neighbours"
    neighbours.mkdir(exist_ok=True)
    calculator = NeighbourCalculator(cache_dir=folder(case) / PLACE, number_of_neighbours=min(250, case["m"] - 1))
    calculator.populate_neighbour_cache("co-occurrence")
    calculator.save_neighbour_cache(str(neighbours / PLACE))
    return _build(case, tokenizer)


async def _build(case: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Records:
    # In the small coder that warms up there are not so many latents.
    latents = torch.tensor(sorted({latent % case["m"] for latent in case["latents"]}))
    dataset = LatentDataset(
        folder(case),
        SamplerConfig(n_examples_train=EXPLAIN, n_examples_test=SCORE, n_quantiles=QUANTILES),
        ConstructorConfig(
            example_ctx_len=WINDOW,
            min_examples=EXPLAIN + SCORE,
            n_non_activating=NEGATIVES,
            non_activating_source=case["negatives"],
        ),
        tokenizer=tokenizer,
        modules=[PLACE],
        latents={PLACE: latents},
        neighbours_path=folder(case) / "neighbours",
    )
    return {record.latent.latent_index: _record(record) async for record in dataset}


def _record(record: LatentRecord) -> dict[str, float]:
    return {
        "firing_rate": record.per_token_frequency,
        "context_rate": record.per_context_frequency,
        "explain": len(record.train),
        "score": len(record.test),
        "non_activating": len(record.not_active),
    }


def _tokenizer() -> PreTrainedTokenizerFast:
    pieces = [word.replace(" ", "Ġ") for word in words()]
    tokenizer = Tokenizer(WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


if __name__ == "__main__":
    serve(open_case)
