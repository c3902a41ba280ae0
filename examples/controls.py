"""Controls for a run: coders that learned nothing, and a model that says nothing.

    python examples/controls.py coder runs/demo controls/random
    python examples/controls.py model MODEL controls/shuffled

`coder` writes for every coder of a run one of the same architecture with random weights, centred as the trained one.
`model` writes a transformers model with the entries of each of its weight matrices permuted: a coder can be trained on
its activations, but they mean nothing. Both are by seed 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import outcrop as oc


@torch.no_grad()
def write_coders(run: Path, out: Path, generator: torch.Generator) -> None:
    for folder in sorted((run / "coders").iterdir()):
        trained, max_norm = oc.load_coder(folder)
        d_out = trained.d_out if trained.transcodes else None
        random = oc.SparseStack(trained.architecture, trained.d_in, d_out, generator, trained.read_scale)
        random.decoder_bias.copy_(trained.decoder_bias)
        (out / "coders" / folder.name).mkdir(parents=True)
        oc.save_coder(random, out / "coders" / folder.name, max_norm)


@torch.no_grad()
def write_model(name: str, out: Path, generator: torch.Generator) -> None:
    model = AutoModelForCausalLM.from_pretrained(name)
    for weight in model.parameters():
        if weight.dim() > 1:
            order = torch.randperm(weight.numel(), generator=generator)
            weight.copy_(weight.flatten()[order].view_as(weight))
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(name).save_pretrained(out)


def main() -> None:
    kind, source, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    generator = torch.Generator().manual_seed(0)
    match kind:
        case "coder":
            write_coders(Path(source), out, generator)
        case "model":
            write_model(source, out, generator)
        case _:
            raise SystemExit(f"{kind!r} is neither coder nor model")


if __name__ == "__main__":
    main()
