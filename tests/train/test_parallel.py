"""Two gloo processes train as one does."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from outcrop.config import Architecture, Loss, ModelConfig, Optimizer, TextConfig, TrainConfig
from outcrop.model.load import load_model
from outcrop.model.text import read_documents
from outcrop.model.tokens import deal
from outcrop.train.loop import train_coders
from outcrop.types import CoderKey, Hookpoint

POINTS = [Hookpoint("model.layers.0"), Hookpoint("model.layers.1")]


def trained_weights(model_directory: Path, text_file: Path, optimizer: Optimizer, loss: Loss) -> dict[str, Tensor]:
    model = load_model(ModelConfig(name=str(model_directory), dtype="float32"))
    text = TextConfig(path=str(text_file), context_tokens=48, max_document_tokens=80)
    corpora = deal(read_documents(text), model.tokenizer, text, {"held_out": 200, "train": 1_500})
    config = TrainConfig(
        optimizer=optimizer, loss=loss, batch_tokens=151, block_tokens=700, ce_tokens=100, auxk_weight=1 / 32,
        dead_after_tokens=300, lr=1e-3,
    )  # fmt: skip
    coders = {CoderKey("topk", point, point, 0): Architecture(n_latents=48, k=4, layers=2) for point in POINTS}
    trained = train_coders(model, corpora["train"], corpora["held_out"], coders, config, batch_tokens=300)
    return {f"{one.placed.key}": one.placed.coder.decoder_rows() for one in trained}


def one_of_two(rank: int, store: str, out: str, model: Path, text: Path, optimizer: Optimizer, loss: Loss) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save(trained_weights(model, text, optimizer, loss), f"{out}-{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize(("optimizer", "loss"), [("muon", "fvu"), ("adam", "fvu"), ("signum", "fvu"), ("adam", "kl")])
def test_two_processes_equal_one(
    model_directory: Path, text_file: Path, tmp_path: Path, optimizer: Optimizer, loss: Loss
) -> None:
    arguments = (str(tmp_path / "store"), str(tmp_path / "out"), model_directory, text_file, optimizer, loss)
    mp.spawn(one_of_two, arguments, nprocs=2)
    first, second = (torch.load(f"{tmp_path / 'out'}-{rank}") for rank in range(2))
    alone = trained_weights(model_directory, text_file, optimizer, loss)
    for key, weights in alone.items():
        assert torch.equal(first[key], second[key])
        apart = (first[key] - weights).norm(dim=1)
        assert apart.median() < 1e-4 and apart.mean() < 1e-2  # sums in another order; seldom another latent fires
