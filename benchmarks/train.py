"""How many tokens a second does a whole training run take in, against sparsify's, on a real model?

    python benchmarks/train.py [--quick] [--model PATH] [--latents 16384] [--rounds 3] [--peer-python PATH]

The model is the demo's (SmolLM2-135M-Instruct, bfloat16) or a transformers directory, the text the demo's, packed
into contexts of 256 tokens; coders of M latents, k = 32, stand in the residual stream at one or four blocks. A
round is one turn of each contender, a fixed number of whole steps on the same tokens; one turn before the first
round warms up, and loading is not timed.

    outcrop     `train_coders`: language model up to the last hookpoint, shuffling, centring, all coders' steps
    sparsify    its `Trainer.fit` on a CPU, at the same batch size in tokens, otherwise as its README sets it
    autocast    the same with the coder's forward pass in bfloat16, as on a GPU
    tuned       the same as `sparsify`, with a malloc that keeps freed memory
    forward     part of the floor: the language model alone, up to the last hookpoint
    product     part of the floor: one coder's encoder products alone, in bfloat16, into a reused buffer

    t_floor = t_forward + n_hookpoints · t_product

Neither measures or saves anything in the rounds; sparsify runs its model to the end. The last line is JSON: by case
the medians of a turn in seconds, `times_floor`, `faster_than`, the same of CPU time (`cpu`), and tokens a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step import KEEP_MEMORY, Contender, Worker, comparison, environment
from transformers import AutoConfig, AutoTokenizer

from outcrop.config import TextConfig
from outcrop.demo.assets import Assets
from outcrop.model.text import read_documents

K, CONTEXT = 32, 256
OPTIMIZERS = ("signum", "muon", "adam")
PARTS = ("forward", "product")  # of the floor
PEERS = ("sparsify", "autocast", "tuned")
OFFLINE = (("HF_HUB_OFFLINE", "1"),)


def contenders(peer_python: str, peers: list[str]) -> list[Contender]:
    ours = [Contender(part, "outcrop_train", sys.executable, environment=OFFLINE) for part in ("outcrop", *PARTS)]
    sparsify = Contender("sparsify", "sparsify_train", peer_python, environment=OFFLINE)
    autocast = replace(sparsify, name="autocast", autocast=True)
    tuned = replace(sparsify, name="tuned", environment=(*OFFLINE, *KEEP_MEMORY.items()))
    return ours + [one for one in (sparsify, autocast, tuned) if one.name in peers]


def packed(model: str, text: str, n_tokens: int) -> np.ndarray:
    """[contexts 256]: the documents' tokens behind one another, parted by the end-of-text token."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens: list[int] = []
    for document in read_documents(TextConfig(text)):
        tokens += [*tokenizer(document, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id or 0]
        if len(tokens) >= n_tokens:
            return np.array(tokens[:n_tokens], dtype=np.int32).reshape(-1, CONTEXT)
    raise SystemExit(f"{text} has {len(tokens)} tokens; {n_tokens} are needed: name a longer one, or fewer rounds")


def measure(case: dict[str, Any], rounds: int, workers: dict[str, Worker]) -> dict[str, Any]:
    """Medians of turns."""
    for name, worker in workers.items():
        worker.open({**case, "part": name if name in PARTS else "training"})
    turns = [{name: worker.step() for name, worker in workers.items()} for _ in range(rounds)]
    clock, cpu = (
        {name: statistics.median(turn[name][of] for turn in turns) for name in workers}
        for of in ("seconds", "cpu_seconds")
    )
    n_hookpoints = len(case["hookpoints"])
    against = compared(clock, n_hookpoints)
    return {
        "optimizer": case["optimizer"],
        "n_hookpoints": n_hookpoints,
        "tokens_per_second": {name: round(case["turn_tokens"] / s) for name, s in against["seconds"].items()},
        **against,
        "cpu": compared(cpu, n_hookpoints),
    }


def compared(seconds: dict[str, float], n_hookpoints: int) -> dict[str, Any]:
    """Ours against the peers and the floor, whose parts stand beside it."""
    parts = {name: seconds[name] for name in PARTS}
    floor = parts["forward"] + n_hookpoints * parts["product"]
    whole = {name: value for name, value in seconds.items() if name not in PARTS}
    return {**comparison({**whole, "floor": floor}), "floor_parts": {name: round(s, 4) for name, s in parts.items()}}


def line(case: dict[str, Any]) -> str:
    rates = ", ".join(f"{name} {rate:,}" for name, rate in case["tokens_per_second"].items())
    ratios = ", ".join(f"{ratio} × {name}" for name, ratio in case["faster_than"].items())
    return f"{case['optimizer']}, hookpoints: {case['n_hookpoints']}. Tokens/s: {rates}. Ours: {ratios}; " + (
        f"{case['times_floor']} × the floor's time"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 latents, turns of 2 small steps, one round")
    parser.add_argument("--model", help="a transformers directory; by default the demo's model")
    parser.add_argument("--text", help="any text that outcrop reads; by default the demo's")
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--batch-tokens", type=int, default=4_096, help="of a step and of a forward pass")
    parser.add_argument("--turn-steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, nargs="+", default=(6, 9, 12, 15), help="the last one is the one")
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS, choices=OPTIMIZERS)
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peer-python", help="the Python of an environment that holds eai-sparsify")
    options = parser.parse_args()
    if options.quick:
        options.latents, options.batch_tokens, options.turn_steps, options.rounds = 512, 256, 2, 1
        options.optimizers, options.peers = ("signum", "muon"), ("sparsify",)
    return options


def main() -> None:
    options = arguments()
    assets = Assets()
    model = options.model or str(assets.language_model())
    turn_tokens = options.turn_steps * options.batch_tokens
    entrants = contenders(options.peer_python or environment("sparsify"), options.peers)
    blocks = [f"model.layers.{block}" for block in options.blocks]
    sizes = {"m": options.latents, "k": K, "d": AutoConfig.from_pretrained(model).hidden_size}
    sizes |= {"batch_tokens": options.batch_tokens, "turn_tokens": turn_tokens}
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.npy"
        # One turn warms up, and one more is there so that no run ends within the rounds.
        np.save(text, packed(model, options.text or str(assets.leads()), (options.rounds + 2) * turn_tokens))
        workers = {one.name: Worker(one, options.threads) for one in entrants}
        for optimizer, places in itertools.product(options.optimizers, (blocks[-1:], blocks)):
            case = {**sizes, "optimizer": optimizer, "hookpoints": places, "model": model, "text": str(text)}
            cases.append(measure(case, options.rounds, workers))
            print(line(cases[-1]), flush=True)
        for worker in workers.values():
            worker.close()
    about = {"model": Path(model).name, "blocks": list(options.blocks), "context": CONTEXT, "threads": options.threads}
    print(json.dumps({**about, **sizes, "torch": torch.__version__, "rounds": options.rounds, "cases": cases}))


if __name__ == "__main__":
    main()
