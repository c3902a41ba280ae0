"""What SAELens makes of coders that outcrop has written: outputs_saelens.safetensors beside each.

    python -m tests.coders.peers.ours
    saelens/bin/python tests/coders/peers/read_saelens.py

with the environment of `make_saelens.py`.
"""

from pathlib import Path

import torch
from sae_lens import SAE
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data" / "ours"


@torch.no_grad()
def read(directory: Path) -> None:
    sae = SAE.load_from_disk(directory)
    assert sae.cfg.metadata.hook_name == "blocks.0.hook_resid_post"
    x = torch.randn(16, sae.cfg.d_in)
    outputs = {"x": x, "codes": sae.encode(x).contiguous(), "output": sae(x)}
    save_file(outputs, directory / "outputs_saelens.safetensors")


if __name__ == "__main__":
    torch.manual_seed(1)
    for weights in sorted(DATA.glob("saelens_*/sae_weights.safetensors")):
        read(weights.parent)
