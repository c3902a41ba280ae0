"""What sparsify makes of coders that outcrop has written: outputs_sparsify.safetensors beside each.

    python -m tests.coders.peers.ours
    sparsify/bin/python tests/coders/peers/read_sparsify.py

with the environment of `make_sparsify.py`.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sparsify import SparseCoder

DATA = Path(__file__).parent / "data" / "ours"


@torch.no_grad()
def read(directory: Path) -> None:
    coder = SparseCoder.load_from_disk(directory)
    x = torch.randn(16, coder.d_in)
    values, latents, _ = coder.encode(x)
    codes = torch.zeros(len(x), coder.num_latents).scatter(1, latents, values)
    outputs = {"x": x, "codes": codes, "output": coder(x).sae_out}
    save_file(outputs, directory / "outputs_sparsify.safetensors")


if __name__ == "__main__":
    torch.manual_seed(1)
    for weights in sorted(DATA.glob("sparsify_*/sae.safetensors")):
        read(weights.parent)
