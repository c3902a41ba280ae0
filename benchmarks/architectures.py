"""Does every architecture train, with every optimizer?

    python benchmarks/architectures.py [--quick] [--tokens 200000] [--optimizers adam muon] [--only topk relu]

Each is trained on the demo's model (SmolLM2-135M, block 15) and text, at one budget: 4608 latents and k = 48 in
all, over all layers together. What fits one training goes through one (`train_coders`); the activations are kept
for the next, so that the language model reads the text once. Prints a Markdown table of measures on held-out
documents, layers parted by a stroke; the last line is JSON. Exits with an error where FVU is not below 1 or a
measure is NaN.

jumprelu and relu have no k: each is trained up to three times, with a sparsity weight that is sought so that L0
ends within a tenth of k. Shown is the nearest that leaves FVU at 0.9 or less, and the JSON names its weight; in so
short a training the weight may not move L0 all the way. Latents count as dead after a tenth of the tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from outcrop.config import Architecture, ModelConfig, Optimizer, TextConfig, TrainConfig
from outcrop.demo.assets import Assets
from outcrop.model.corpus import Corpus
from outcrop.model.hooks import find_places
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.text import read_documents, shuffled
from outcrop.model.tokens import deal
from outcrop.train.loop import Trained, train_coders
from outcrop.types import CoderKey

OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "muon", "signum")
BLOCK = "model.layers.15"
MLP = f"{BLOCK}.mlp:input->{BLOCK}.mlp"
NEURONS = f"{BLOCK}.mlp:input->{BLOCK}.mlp.down_proj:input"  # from 576 to 1536
FIRST_WEIGHT = {"jumprelu": 1e-3, "relu": 5e-3}  # of sparsity; where the search begins
ATTEMPTS = 3


@dataclass(frozen=True)
class Case:
    """An architecture at a place, and what its training sets otherwise."""

    name: str
    architecture: Architecture
    place: str = BLOCK
    training: dict[str, Any] = field(default_factory=dict)


def cases(n_latents: int, k: int) -> list[Case]:
    single = Architecture(n_latents=n_latents, k=k)
    stack = replace(single, layers=3, split=True)
    nested = (n_latents // 4, n_latents // 2)
    return [
        Case("topk", single),
        Case("batchtopk", replace(single, selection="batchtopk")),
        Case("groupmax", replace(single, selection="groupmax")),
        Case("jumprelu", replace(single, selection="jumprelu")),
        Case("relu", replace(single, selection="relu")),
        Case("matryoshka", replace(single, matryoshka=nested)),
        Case("dense sandwich", replace(single, encoder_widths=(288,), decoder_widths=(288,))),
        Case("3 residual", stack),
        Case("3 resnet", replace(stack, reads="resnet")),
        Case("3 parallel", replace(stack, reads="parallel")),
        Case("3 residual, prefix losses", stack, training={"prefix_losses": True}),
        Case("3 residual, Multi-TopK", stack, training={"multi_topk": True}),
        Case("3 residual, no AuxK", stack, training={"auxk_weight": 0.0}),
        Case("topk, k decay from 4k", single, training={"k_start": 4 * k}),
        Case("transcoder, skip", replace(single, skip=True), MLP),
        Case("transcoder, 2 parallel, skip", replace(stack, layers=2, reads="parallel", skip=True), MLP),
        Case("transcoder, 576 to 1536", single, NEURONS),
    ]


def corpora(assets: Assets, model: LanguageModel, train: TrainConfig) -> dict[str, Corpus]:
    text = TextConfig(str(assets.leads()))
    documents = shuffled(read_documents(text), text.shuffle_documents, np.random.default_rng(0))
    return deal(documents, model.tokenizer, text, {"held_out": train.held_out_tokens, "train": train.tokens})


def trained(
    model: LanguageModel, text: dict[str, Corpus], wanted: Sequence[Case], base: TrainConfig
) -> Iterator[tuple[Case, Trained]]:
    """In as few trainings as there are settings of them; the commonest settings first, which see every place."""
    given = [case for case in wanted if case.architecture.selection not in FIRST_WEIGHT]
    for _, group in groupby(sorted(given, key=_settings), key=_settings):
        yield from together(model, text, list(group), base)
    for case in wanted:
        if case not in given:
            yield sought(model, text, case, base)


def together(
    model: LanguageModel, text: dict[str, Corpus], alike: Sequence[Case], base: TrainConfig
) -> Iterator[tuple[Case, Trained]]:
    """In one training, whose settings all of them share."""
    keys = {case.name: CoderKey(case.name, *find_places(model.module, [case.place])[0], 0) for case in alike}
    coders = {keys[case.name]: case.architecture for case in alike}
    config = replace(base, **alike[0].training)
    found = {one.placed.key: one for one in train_coders(model, text["train"], text["held_out"], coders, config)}
    yield from ((case, found[keys[case.name]]) for case in alike)


def sought(model: LanguageModel, text: dict[str, Corpus], case: Case, base: TrainConfig) -> tuple[Case, Trained]:
    """With the sparsity weight, of those tried, that ends nearest to L0 = k: the secant of log L0 over log weight."""
    tries: list[tuple[float, float, tuple[Case, Trained]]] = []  # log weight, log L0/k, and what came of it
    weight, slope = math.log(FIRST_WEIGHT[case.architecture.selection]), -1.0
    for _ in range(ATTEMPTS):
        weighted = replace(case, training={"sparsity_weight": math.exp(weight)})
        ((_, one),) = together(model, text, [weighted], base)
        off = math.log(max(one.reconstruction.l0, 0.01) / case.architecture.k)
        if tries:
            slope = min(-0.2, (off - tries[-1][1]) / (weight - tries[-1][0]))
        tries.append((weight, off, (weighted, one)))
        if abs(off) < 0.1:
            break
        weight -= max(-1.0, min(1.0, off / slope))
    return min(tries, key=lambda attempt: (attempt[2][1].reconstruction.fvu > 0.9, abs(attempt[1])))[2]


def _settings(case: Case) -> tuple[tuple[str, Any], ...]:
    return tuple(case.training.items())


def row(case: Case, optimizer: Optimizer, one: Trained) -> dict[str, Any]:
    measured = one.reconstruction
    return {
        "architecture": case.name,
        "optimizer": optimizer,
        "training": case.training,
        "fvu": measured.fvu,
        "l0": measured.l0,
        "unfired_share": [layer.unfired_share for layer in measured.layers],
        "dead_share": [layer.dead_share for layer in measured.layers],
        "ce_recovered": measured.cross_entropy.recovered,
    }


def trains(row: dict[str, Any]) -> bool:
    return row["fvu"] < 1 and not any(math.isnan(value) for value in (row["l0"], row["ce_recovered"]))


def line(row: dict[str, Any]) -> str:
    """Of the Markdown table."""
    unfired, dead = (
        " / ".join("?" if share is None else f"{share:.1%}" for share in row[of])
        for of in ("unfired_share", "dead_share")
    )
    name, optimizer = row["architecture"], row["optimizer"]
    figures = f"{row['fvu']:.3f} | {row['l0']:.1f} | {unfired} | {dead} | {row['ce_recovered']:.3f}"
    return f"| {name} | {optimizer} | {figures} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="muon, 384 latents, 8,192 tokens: whether all of it runs")
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--k", type=int, default=48)
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS, choices=OPTIMIZERS)
    parser.add_argument("--only", nargs="+", help="these architectures, by their names in the table")
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.latents, options.k, options.optimizers = 8_192, 384, 12, ("muon",)
    return options


def main() -> None:
    options = arguments()
    held_out, ce = (1_024, 256) if options.quick else (16_384, 4_096)
    assets = Assets()
    model = load_model(ModelConfig(str(assets.language_model())))
    wanted = [case for case in cases(options.latents, options.k) if case.name in (options.only or [case.name])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        base = TrainConfig(
            tokens=options.tokens,
            held_out_tokens=held_out,
            ce_tokens=ce,
            batch_tokens=256 if options.quick else 2_048,
            evaluate_every_tokens=options.tokens,
            activations=folder,
        )
        text = corpora(assets, model, base)
        print("| architecture | optimizer | FVU | L0 | unfired, by layer | dead, by layer | CE recovered |")
        print("|---|---|---|---|---|---|---|")
        for optimizer in options.optimizers:
            for case, one in trained(model, text, wanted, replace(base, optimizer=optimizer)):
                rows.append(row(case, optimizer, one))
                print(line(rows[-1]), flush=True)
    sizes = {"tokens": options.tokens, "n_latents": options.latents, "k": options.k}
    print(json.dumps({**sizes, "rows": rows}))
    failed = [f"{row['architecture']} with {row['optimizer']}" for row in rows if not trains(row)]
    if failed:
        sys.exit(f"FVU is not below 1, or a measure is not a number: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
