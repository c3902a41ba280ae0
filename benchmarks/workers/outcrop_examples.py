"""Our examples of the selected latents, from the cache on disk: open it, `survey`, `build_examples`.

Where the survey is made beforehand, the last alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from given import EXPLAIN, NEGATIVES, QUANTILES, SCORE, WINDOW, give_back_memory, words
from outcrop_caching import caching, folder
from serve import Step, serve

from outcrop.config import ExamplesConfig, SelectConfig
from outcrop.latents.examples import build_examples
from outcrop.latents.survey import Survey, survey
from outcrop.types import LatentExamples, Split, Stratum, Vocabulary


def open_case(case: dict[str, Any]) -> tuple[Step, Any]:
    cache, records = caching(case), Path(case["folder"]) / "records.json"
    cache()
    shards = set(folder(case).rglob("*"))
    vocabulary = Vocabulary(tuple(word.encode() for word in words()))
    select, config = SelectConfig(n_latents=case["n_latents"]), _config(case["negatives"])

    def surveyed() -> Survey:
        for kept in set(folder(case).rglob("*")) - shards:  # what an earlier survey has counted
            kept.unlink()
        return survey(cache(), vocabulary, select, config, window_tokens=WINDOW)

    before = surveyed() if case["surveyed"] else None

    def step() -> None:
        examples = build_examples(before or surveyed(), config)
        records.write_text(json.dumps({one.latent.index: _record(one) for one in examples}))

    give_back_memory()
    return step, lambda: 0


def _config(negatives: str) -> ExamplesConfig:
    none = {f"{split}_{stratum}": 0 for split in get_args(Split) for stratum in get_args(Stratum)}
    wanted = {"random": "random", "neighbours": "neighbour"}[negatives]
    return ExamplesConfig(
        n_quantiles=QUANTILES,
        explain_activating=EXPLAIN,
        score_activating=SCORE,
        **{**none, f"score_{wanted}": NEGATIVES},
    )


def _record(examples: LatentExamples) -> dict[str, float]:
    activating = sum(example.activating for example in examples.score)
    return {
        "firing_rate": examples.firing_rate,
        "context_rate": examples.context_rate,
        "explain": len(examples.explain),
        "score": activating,
        "non_activating": len(examples.score) - activating,
    }


if __name__ == "__main__":
    serve(open_case)
