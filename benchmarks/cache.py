"""How fast is the latent cache made, and in how much memory, against delphi's?

    python benchmarks/cache.py [--quick] [--latents 8192 16384 32768] [--tokens 65536] [--model PATH]
                               [--peer-python PATH]

The same synthetic TopK autoencoder (k = 32) and the same contexts of 256 tokens for all, float32 throughout.
Two parts:

    encode    activations that are there already: in place of the language model one replays them. Encode and write.
    whole     with the language model's forward pass: a small Llama of random weights (6 blocks, d = 512) or a
              transformers directory, read in the middle

Contenders, each a process of its own, taking turns in one run:

    outcrop   `cache_latents`
    delphi    `LatentCache.run` and `save_splits`, at its default settings (32 contexts at once, 5 splits)
    tuned     the same with a malloc that keeps freed memory

Before anything is reported the files are compared: of a sample of latents, delphi's and ours must hold the same
positions, but for near ties at the k-th place, and the same values, to float16. Otherwise the run fails.

delphi runs in an environment of its own, made at first use under ~/.cache/outcrop, or in the one whose Python is
named. The last line is JSON: by case the medians in tokens per second and in seconds, `faster_than` by the clock and
by CPU time, and `extra_mib`, how far making the cache twice pushes the peak of resident memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from safetensors.numpy import load_file
from step import KEEP_MEMORY, Contender, Worker, compared, environment
from transformers import AutoConfig, LlamaConfig, LlamaModel
from workers.given import N_TYPES
from workers.outcrop_caching import caching

HERE = Path(__file__).parent
LATENTS, TOKENS, WIDTH, K = (8192, 16384, 32768), 65_536, 512, 32
PARTS, PEERS = ("encode", "whole"), ("delphi", "tuned")
QUIET = (("HF_HUB_OFFLINE", "1"), ("TQDM_DISABLE", "1"))
DELPHI = "eai-delphi==0.1.3"
SAMPLE = 64  # latents that are compared
NEAR_TIES = 1e-3  # share of the firings that may differ, because float32 sums are rounded in another order


def contenders(peer_python: str, task: str, peers: list[str]) -> list[Contender]:
    delphi = Contender("delphi", f"delphi_{task}", peer_python, environment=QUIET)
    tuned = replace(delphi, name="tuned", environment=(*delphi.environment, *KEEP_MEMORY.items()))
    ours = Contender("outcrop", f"outcrop_{task}", sys.executable)
    return [ours, *(one for one in (delphi, tuned) if one.name in peers)]


def measure(case: dict[str, Any], rounds: int, workers: dict[str, Worker]) -> dict[str, Any]:
    """Medians of caches made in turns."""
    cases = {name: {**case, "folder": str(Path(case["folder"]) / name)} for name in workers}
    extra = {name: worker.open(cases[name])["extra_bytes"] for name, worker in workers.items()}
    clock, cpu = take_turns(workers, rounds)
    return {
        **{key: case[key] for key in ("part", "n", "d", "m")},
        "tokens_per_second": {name: round(case["n"] / seconds) for name, seconds in clock.items()},
        **compared(clock),
        "cpu": compared(cpu),
        "extra_mib": {name: mebibytes(extra[name]) for name in workers},
        "near_ties": {name: disagreement(cases["outcrop"], cases[name]) for name in workers if name != "outcrop"},
    }


def take_turns(workers: dict[str, Worker], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of seconds, by the clock and of CPU time."""
    turns = [{name: worker.step() for name, worker in workers.items()} for _ in range(rounds)]
    clock, cpu = (
        {name: statistics.median(turn[name][of] for turn in turns) for name in workers}
        for of in ("seconds", "cpu_seconds")
    )
    return clock, cpu


def mebibytes(n_bytes: int | None) -> int | None:
    return None if n_bytes is None else round(n_bytes / 2**20)


def disagreement(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The share of a sample's firings that only one cache has; SystemExit where the caches are not the same."""
    latents = np.random.default_rng(0).choice(ours["m"], size=SAMPLE, replace=False)
    place, value = _our_firings(ours, latents)
    other_place, other_value = _delphi_firings(theirs, latents)
    _, a, b = np.intersect1d(place, other_place, assume_unique=True, return_indices=True)
    share = 1 - 2 * len(a) / (len(place) + len(other_place))
    if not share <= NEAR_TIES:
        raise SystemExit(f"{len(place)} firings in our cache, {len(other_place)} in delphi's, {len(a)} in both: {ours}")
    wrong = ~np.isclose(value[a], other_value[b], rtol=2**-10, atol=2**-24)
    if wrong.any():
        ours_first, theirs_first = value[a][wrong][0], other_value[b][wrong][0]
        raise SystemExit(f"{wrong.sum()} of {len(a)} values differ, {ours_first} from {theirs_first}: {ours}")
    return round(share, 6)


Sampled = tuple[ndarray, ndarray]  # latent · n + position, and value, of each firing


def _our_firings(case: dict[str, Any], latents: ndarray) -> Sampled:
    cache = caching(case)()
    found = [(latent, cache[latent]) for latent in latents.tolist()]
    return (
        np.concatenate([latent * case["n"] + firings.position for latent, firings in found]),
        np.concatenate([firings.value for _, firings in found]),
    )


def _delphi_firings(case: dict[str, Any], latents: ndarray) -> Sampled:
    places, values = [], []
    for path in Path(case["folder"], str(case["m"])).rglob("*.safetensors"):
        split = load_file(path)
        context, offset, latent = split["locations"].astype(np.int64).T
        latent += int(path.stem.split("_")[0])  # delphi says only here where a split begins
        chosen = np.isin(latent, latents)
        length = split["tokens"].shape[1]
        places.append((latent * case["n"] + context * length + offset)[chosen])
        values.append(split["activations"][chosen].astype(np.float32))
    return np.concatenate(places), np.concatenate(values)


def small_llama(folder: Path) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=N_TYPES, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=6, num_attention_heads=8
    )
    LlamaModel(config).save_pretrained(folder)
    return str(folder)


def versions(python: str, *packages: str) -> dict[str, str]:
    """Of packages in the environment of a Python."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {packages}}}))"
    return json.loads(subprocess.check_output([python, "-c", code], text=True))


def line(case: dict[str, Any]) -> str:
    rates, ratios, memory = figures(case, "tokens_per_second")
    return f"{case['part']}, M = {case['m']}, {case['n']:,} tokens. Tokens/s: {rates}. Ours: {ratios}. MiB: {memory}"


def figures(case: dict[str, Any], rate: str) -> tuple[str, str, str]:
    """Rates, ratios and memory of a case in words."""
    rates = ", ".join(f"{name} {value:,}" for name, value in case[rate].items())
    ratios = ", ".join(f"{ratio} × {name}" for name, ratio in case["faster_than"].items())
    memory = ", ".join(f"{name} {mib}" for name, mib in case["extra_mib"].items())
    return rates, ratios, memory


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4096 latents, 8192 tokens, one round, no `tuned`")
    parser.add_argument("--latents", type=int, nargs="+", default=LATENTS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[TOKENS], help="multiples of 8192: delphi's batches")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the activations in `encode`")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument(
        "--model", help="a transformers directory of 8192 token types or more; by default a small Llama"
    )
    parser.add_argument("--hookpoint", help="as AutoModel names it; by default layers.N/2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--peer-python", help="the Python of an environment that holds eai-delphi")
    options = parser.parse_args()
    if options.quick:
        options.latents, options.tokens, options.rounds, options.peers = (4096,), [8192], 1, ("delphi",)
    if any(n % 8192 for n in options.tokens):
        parser.error(f"--tokens {options.tokens}: not multiples of 8192, of which delphi would drop the rest")
    return options


def settings(options: argparse.Namespace, part: str, folder: Path) -> dict[str, Any]:
    """What the cases of one part have in common."""
    common = {"part": part, "k": K, "bos": False, "folder": str(folder / part)}
    if part == "encode":
        return {**common, "d": options.width, "model": None, "hookpoint": None}
    model = options.model or small_llama(folder / "llama")
    config = AutoConfig.from_pretrained(model)
    hookpoint = options.hookpoint or f"layers.{config.num_hidden_layers // 2}"
    return {**common, "d": config.hidden_size, "model": model, "hookpoint": hookpoint}


def main() -> None:
    options = arguments()
    peer_python = options.peer_python or environment("delphi", DELPHI)
    entrants = contenders(peer_python, "cache", options.peers)
    workers = {one.name: Worker(one, options.threads) for one in entrants}
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            common = settings(options, part, Path(folder))
            for n, m in itertools.product(options.tokens, options.latents):
                cases.append(measure({**common, "n": n, "m": m}, options.rounds, workers))
                print(line(cases[-1]), flush=True)
        for worker in workers.values():
            worker.close()
    packages = ("torch", "transformers")
    about = {"k": K, "threads": options.threads, "rounds": options.rounds, "model": options.model}
    environments = {"outcrop": versions(sys.executable, *packages), "delphi": versions(peer_python, *packages)}
    print(json.dumps({**about, "versions": environments, "cases": cases}))


if __name__ == "__main__":
    main()
