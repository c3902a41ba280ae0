"""sparsify's training run, its `Trainer` as it is: the model as its command line loads it, its README's settings."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from serve_turns import Passed, serve
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer
from torch.utils.data import Dataset
from transformers import AutoModel


class Contexts(Dataset):
    """Rows of tokens, each counted when it is taken."""

    def __init__(self, rows: np.ndarray, passed: Passed) -> None:
        self._rows, self._passed = rows, passed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        self._passed(len(self._rows[i]))
        return {"input_ids": torch.from_numpy(self._rows[i].astype(np.int64))}


def run(case: dict[str, Any], passed: Passed) -> None:
    rows = np.load(case["text"])
    config = TrainConfig(
        SparseCoderConfig(num_latents=case["m"], k=case["k"]),
        batch_size=case["batch_tokens"] // rows.shape[1],
        hookpoints=[path.removeprefix("model.") for path in case["hookpoints"]],
        optimizer=case["optimizer"],
        log_to_wandb=False,
    )
    if case["autocast"]:
        _autocast()
    Trainer(config, Contexts(rows, passed), _model(case["model"])).fit()


@cache
def _autocast() -> None:
    """sparsify casts its coder's forward pass to bfloat16 on a GPU alone; here on a CPU, too, once and for all."""
    SparseCoder.forward = torch.autocast("cpu", torch.bfloat16)(SparseCoder.forward)


@cache
def _model(path: str) -> torch.nn.Module:
    return AutoModel.from_pretrained(path, dtype=torch.bfloat16)


if __name__ == "__main__":
    serve(run)
