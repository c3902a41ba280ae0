"""Coders of dictionary_learning's with random weights, and what it makes of random inputs.

    python -m venv dictionary && dictionary/bin/pip install torch==2.13.0 safetensors einops tqdm
    dictionary/bin/pip install --no-deps dictionary-learning==0.1.0
    dictionary/bin/python tests/coders/peers/make_dictionary_learning.py

nnsight, which it wants for gathering activations only, is replaced by an empty module.
"""
# ruff: noqa: E402 (the empty module has to be there before the imports)

import json
import sys
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file

sys.modules["nnsight"] = ModuleType("nnsight")
sys.modules["nnsight"].LanguageModel = object

from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK

DATA = Path(__file__).parent / "data" / "dictionary_learning"
WIDTH, LATENTS, K = 8, 24, 4

CODERS = {
    "AutoEncoder": lambda: AutoEncoder(WIDTH, LATENTS),
    "AutoEncoderNew": lambda: AutoEncoderNew(WIDTH, LATENTS),
    "AutoEncoderTopK": lambda: AutoEncoderTopK(WIDTH, LATENTS, K),
    "BatchTopKSAE": lambda: BatchTopKSAE(WIDTH, LATENTS, K),
    "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(WIDTH, LATENTS, K, [6, 6, 12]),
    "JumpReluAutoEncoder": lambda: JumpReluAutoEncoder(WIDTH, LATENTS),
    "GatedAutoEncoder": lambda: GatedAutoEncoder(WIDTH, LATENTS),
}


@torch.no_grad()
def make(name: str) -> None:
    coder, x = CODERS[name](), torch.randn(16, WIDTH)
    for parameter in coder.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape))
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        coder.threshold.fill_(0.7)
    directory = DATA / name
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(coder.state_dict(), directory / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": WIDTH, "dict_size": LATENTS}
    if hasattr(coder, "k"):
        trainer["k"] = coder.k.item()
    (directory / "config.json").write_text(json.dumps({"trainer": trainer}) + "\n")
    loaded = type(coder).from_pretrained(directory / "ae.pt")
    codes = loaded.encode(x)
    save_file({"x": x, "codes": codes, "output": loaded.decode(codes)}, directory / "outputs.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in CODERS:
        make(name)
