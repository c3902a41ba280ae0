"""Coders of sparsify's with random weights, and what sparsify makes of random inputs.

python -m venv sparsify && sparsify/bin/pip install torch==2.13.0 eai-sparsify==1.3.3
sparsify/bin/python tests/coders/peers/make_sparsify.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

DATA = Path(__file__).parent / "data" / "sparsify"
WIDTH = 8

KINDS = {
    "topk": SparseCoderConfig(expansion_factor=3, k=4),
    "groupmax": SparseCoderConfig(activation="groupmax", num_latents=24, k=4),
    "transcoder": SparseCoderConfig(num_latents=24, k=4, transcode=True),
    "skip_transcoder": SparseCoderConfig(num_latents=24, k=4, transcode=True, skip_connection=True),
}


@torch.no_grad()
def make(kind: str, config: SparseCoderConfig) -> None:
    coder = SparseCoder(WIDTH, config)
    for parameter in coder.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape))
    x = torch.randn(16, WIDTH)
    coder.save_to_disk(DATA / kind)
    values, latents, _ = coder.encode(x)
    codes = torch.zeros(len(x), coder.num_latents).scatter(1, latents, values)
    save_file({"x": x, "codes": codes, "output": coder(x).sae_out}, DATA / kind / "outputs.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    for kind, config in KINDS.items():
        make(kind, config)
