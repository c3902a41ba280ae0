"""Does a stack of sparse layers find more of the true latents, or only a lower FVU?

    python benchmarks/planted.py [--quick] [--tokens 1000000] [--seeds 3] [--lr 0.004 0.008]

Activations are made of planted latents, in superposition: x = μ + Σ a_j f_j + noise, with D = 256 dimensions, 2,048
unit directions f_j at random, lognormal a_j, firing rates that fall as a power of the rank, from 0.2 to 2e-3 (some ten
latents fire on a token), and a mean of γ = 1. A quarter of the latents fire together in groups of eight (correlation
0.5 of what decides whether they fire); another quarter are children that fire only where their parent does. Every coder
has 4,096 latents and k = 12 in all: one wide layer; stacks of 2 to 4 that read what is left (`residual`), x + ŷ
(`resnet`) or x (`parallel`); with and without prefix losses. Each is trained with the default settings, or with each of
some learning rates, on the same tokens, which differ by seed. A table tells the means over seeds with 95% intervals.

    fvu          of 50,000 held-out tokens
    recovered    true latents, of those that fired 10 times there, whose nearest decoder row has a cosine above 0.9
    cosine       of the nearest decoder row, mean over the same
    f1           of their firing with that latent's
    true         latents of the coder that fired, whose nearest true direction has a cosine above 0.9: per layer

The last line is JSON: all of it per coder and seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from outcrop.config import Architecture, TrainConfig
from outcrop.sweep.table import mean, plus_minus
from outcrop.train.evaluate import measure
from outcrop.train.normalise import estimate
from outcrop.train.step import CoderState, new_state, train_step
from outcrop.types import ActivationBatch, CoderKey, Hookpoint

D, N_TRUE, GROUP = 256, 2_048, 8
HIGHEST, LOWEST, NOISE, GAMMA, CORRELATION = 0.2, 2e-3, 0.05, 1.0, 0.5
BATCH, HELD_OUT, OFTEN, NEAR = 2_048, 50_000, 10, 0.9
PLACE = Hookpoint("planted")


class World:
    """The truth, and activations that are made of it."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._directions = _unit(generator.normal(size=(N_TRUE, D)))
        power = np.log(HIGHEST / LOWEST) / np.log(N_TRUE)
        self.rates = HIGHEST * np.arange(1, N_TRUE + 1) ** -power
        roles = generator.permutation(N_TRUE)
        self._grouped = roles[: N_TRUE // 4]
        children = roles[N_TRUE // 4 : N_TRUE // 2]
        self._children = children[children > 0]
        self._parents = (generator.random(len(self._children)) * self._children).astype(int)  # of a higher rate
        x = self._made(generator, 20_000)[0]
        self._mean = (
            GAMMA * np.sqrt((x - x.mean(axis=0)).var(axis=0).mean()) * np.sqrt(D) * _unit(generator.normal(size=(1, D)))
        )

    @property
    def directions(self) -> Tensor:
        return torch.from_numpy(self._directions).float()

    def activations(self, generator: np.random.Generator, n: int) -> tuple[ActivationBatch, np.ndarray]:
        """And which latents fire [n N_TRUE]."""
        x, fires = self._made(generator, n)
        tensor = torch.from_numpy(x + self._mean).float()
        return ActivationBatch(tensor, tensor, torch.arange(n)), fires

    def _made(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        fires = generator.random((n, N_TRUE), dtype=np.float32) < self.rates
        groups = len(self._grouped) // GROUP
        shared = np.repeat(generator.normal(size=(n, groups)), GROUP, axis=1)
        own = generator.normal(size=shared.shape)
        decides = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own
        fires[:, self._grouped] = decides > -special.ndtri(self.rates[self._grouped])
        order = np.argsort(self._children)  # parents before their children, whose rates are lower
        for child, parent in zip(self._children[order], self._parents[order], strict=True):
            given = self.rates[child] / self.rates[parent]
            fires[:, child] = fires[:, parent] & (generator.random(n) < given)
        token, latent = fires.nonzero()
        values = np.zeros(fires.shape, dtype=np.float32)
        values[token, latent] = generator.lognormal(0, 0.5, len(token))
        return values @ self._directions + NOISE * generator.normal(size=(n, D)), fires


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True)
class Case:
    name: str
    architecture: Architecture
    train: TrainConfig


def cases(train: TrainConfig) -> list[Case]:
    wide = Architecture(n_latents=4_096, k=12)
    found = [Case("1 wide", wide, train)]
    for depth in (2, 4):
        found.append(Case(f"{depth} residual", replace(wide, layers=depth, split=True), train))
    for reads in ("resnet", "parallel"):
        found.append(Case(f"4 {reads}", replace(wide, layers=4, split=True, reads=reads), train))
    prefixes = replace(train, prefix_losses=True)
    return [*found, Case("4 residual, prefix losses", replace(wide, layers=4, split=True), prefixes)]


def trained(case: Case, batches: list[ActivationBatch], seed: int) -> CoderState:
    normaliser = estimate(batches[0], None, case.train.normalise)
    state = new_state(CoderKey("planted", PLACE, PLACE, seed), case.architecture, case.train, normaliser)
    for step, batch in enumerate(batches):
        train_step(state, batch, step, len(batches), case.train)
    return state


@torch.no_grad()
def found(state: CoderState, world: World) -> dict[str, Any]:
    batch, fires = world.activations(np.random.default_rng(2), HELD_OUT)
    x, y = state.normaliser(batch)
    with state.evaluated() as coder:
        held = measure(coder, x, y)
        cosines = torch.nn.functional.normalize(coder.decoder_rows(), dim=1) @ world.directions.T  # [latents true]
        latents = coder.encode(x)
        token = torch.repeat_interleave(torch.arange(HELD_OUT), latents.indptr.diff())
        codes = torch.zeros(HELD_OUT, coder.n_latents, dtype=torch.bool)
        codes[token, latents.indices] = True
    often = np.flatnonzero(fires.sum(axis=0) >= OFTEN)
    best, nearest = cosines[:, often].max(dim=0)
    truth, told = torch.from_numpy(fires[:, often]), codes[:, nearest]
    both = (truth & told).sum(dim=0)
    f1 = 2 * both / (truth.sum(dim=0) + told.sum(dim=0))
    right = (cosines.max(dim=1).values > NEAR).view(coder.n_layers, -1)
    alive = codes.any(dim=0).view(coder.n_layers, -1)
    return {
        "fvu": held.fvu[-1],
        "l0": sum(held.l0),
        "recovered": float((best > NEAR).float().mean()),
        "cosine": float(best.mean()),
        "f1": float(f1.mean()),
        "true": ((right & alive).sum(dim=1) / alive.sum(dim=1).clamp_min(1)).tolist(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One row per coder: means over seeds with intervals, and of each layer the share of its living latents that are
    true."""
    names = ("fvu", "l0", "recovered", "cosine", "f1")
    lines = [f"| coder | {' | '.join(names)} | true, by layer |", "|---" * (len(names) + 2) + "|"]
    for coder in dict.fromkeys(row["coder"] for row in rows):
        mine = [row for row in rows if row["coder"] == coder]
        cells = [plus_minus(*mean(mine, name), 3) for name in names]
        true = np.mean([row["true"] for row in mine], axis=0)
        lines.append(f"| {coder} | {' | '.join(cells)} | {', '.join(f'{share:.2f}' for share in true)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two coders, one seed, 40,000 tokens")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, nargs="+", default=(None,), help="by default the law's")
    options = parser.parse_args()
    n_tokens, seeds = (40_000, 1) if options.quick else (options.tokens, options.seeds)
    world, rows = World(), []
    for seed in range(seeds):
        generator = np.random.default_rng([1, seed])
        batches = [world.activations(generator, BATCH)[0] for _ in range(n_tokens // BATCH)]
        for lr in options.lr:
            for case in cases(TrainConfig(tokens=n_tokens, lr=lr))[: 2 if options.quick else None]:
                name = case.name if lr is None else f"{case.name}, lr {lr:g}"
                row = {"coder": name, "seed": seed, **found(trained(case, batches, seed), world)}
                print(row, file=sys.stderr)
                rows.append(row)
    print(table(rows))
    about = {"tokens": n_tokens, "true": N_TRUE, "true_l0": round(float(world.rates.sum()), 2)}
    print(json.dumps({**about, "coders": rows}))


if __name__ == "__main__":
    main()
