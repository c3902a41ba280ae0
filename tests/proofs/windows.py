"""Do weights undo the sampling, and is the token illusion seen? On a planted corpus, through the library's own road."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from outcrop.config import ExamplesConfig
from outcrop.metrics.rates import Estimate
from outcrop.report.tables import Tables
from tests.planted import BANK, MONEY, RIVER, Planted, after, anywhere, follow, judgements, plant

IN_CONTEXT, TOKEN, OFTEN, NEAR = range(4)
RULES = (after(BANK, RIVER, 12), anywhere(BANK), anywhere(MONEY, 0.9), after(BANK, RIVER, 30))
EXPLAINED_AS = {IN_CONTEXT: BANK, TOKEN: BANK, OFTEN: MONEY}
METRICS = (
    "balanced_accuracy_random",
    "balanced_accuracy_same_token",
    "token_illusion",
    "beyond_tokens",
    "beyond_tokens_same_token",
)
HARD = ExamplesConfig(
    explain_activating=5, score_random=15, score_same_token=25, score_neighbour=20, explain_semantic=0, score_semantic=0
)


def planted(directory: Path, n_documents: int = 4_000) -> Planted:
    return plant(RULES, n_documents, directory)


def sampled(world: Planted, verdicts: dict[int, np.ndarray], seed: int) -> Tables:
    """The report of one draw of examples, judged as the verdicts on all windows say."""
    drawn = [one for one in world.examples(HARD, seed) if one.latent.index in verdicts]
    return world.tables(drawn, [j for one in drawn for j in judgements(one, verdicts[one.latent.index])])


def weight_rows(draws: int) -> Iterator[dict[str, Any]]:
    """The token-in-context latent explained as its token: three quarters of the judged windows are hard negatives."""
    with tempfile.TemporaryDirectory() as folder:
        world = planted(Path(folder))
        grid, generator = world.survey.grid, np.random.default_rng(1)
        verdicts = {IN_CONTEXT: follow(grid.tokens, BANK, {0: 0.02, 1: 0.1}, generator)}
        truth = corpus_rates(world, verdicts[IN_CONTEXT])
        found: dict[str, list[tuple[float, bool]]] = {"fpr": [], "true_accuracy": []}
        unweighted = []
        for seed in range(draws):
            tables = sampled(world, verdicts, seed)
            for name, of in found.items():
                one = tables.scores.arms["explanation"][name].estimate
                of.append((float(one.value[0]), bool(one.low[0] <= truth[name] <= one.high[0])))
            unweighted.append(plain_rate(world, verdicts[IN_CONTEXT], seed))
    for name, of in found.items():
        values, covered = zip(*of, strict=True)
        yield {
            "metric": name,
            "whole corpus": truth[name],
            "mean estimate": float(np.mean(values)),
            "deviation": float(np.std(values)),
            "covered": float(np.mean(covered)),
            "unweighted": float(np.mean(unweighted)) if name == "fpr" else None,
        }


def fires(world: Planted, latent: int) -> np.ndarray:
    """In which grid windows."""
    found = np.zeros(world.survey.grid.n_windows, dtype=bool)
    found[world.survey.grid.rows_of(world.survey.cache[latent].position)] = True
    return found


def corpus_rates(world: Planted, verdicts: np.ndarray) -> dict[str, float]:
    """FPR and true accuracy of judging every window of the documents for scoring."""
    active, scored = fires(world, IN_CONTEXT), world.survey.is_score[world.survey.grid.document]
    fpr, rate = float(verdicts[scored & ~active].mean()), float(active.mean())
    return {"fpr": fpr, "true_accuracy": rate * float(verdicts[scored & active].mean()) + (1 - rate) * (1 - fpr)}


def plain_rate(world: Planted, verdicts: np.ndarray, seed: int) -> float:
    """The share of all judged non-activating windows that are taken for a match."""
    (one,) = (one for one in world.examples(HARD, seed) if one.latent.index == IN_CONTEXT)
    return float(np.mean([verdicts[example.row] for example in one.score if not example.activating]))


def illusion_rows(draws: int) -> Iterator[dict[str, Any]]:
    """Three latents explained by their word alone, one by its whole rule, too; the judge errs on 2% of windows."""
    with tempfile.TemporaryDirectory() as folder:
        world, generator = planted(Path(folder)), np.random.default_rng(2)
        grid, dependence = world.survey.grid, world.survey.statistics.context_dependence
        words = {latent: follow(grid.tokens, word, 0.02, generator) for latent, word in EXPLAINED_AS.items()}
        rule = fires(world, IN_CONTEXT) ^ (generator.random(grid.n_windows) < 0.02)
        cases = (
            ("“bank” after “river”", "“bank”", IN_CONTEXT, words[IN_CONTEXT]),
            ("“bank” after “river”", "its rule", IN_CONTEXT, rule),
            ("“bank”", "“bank”", TOKEN, words[TOKEN]),
            ("“money”, 9 times in 10", "“money”", OFTEN, words[OFTEN]),
        )
        for fires_on, explained_as, latent, verdicts in cases:
            reports = [sampled(world, {latent: verdicts}, seed) for seed in range(draws)]
            means = {
                name: _mean([one.scores.arms["explanation"][name].estimate for one in reports]) for name in METRICS
            }
            named = {"latent": fires_on, "explained as": explained_as}
            yield {**named, **means, "context_dependence": float(dependence[latent])}


def _mean(estimates: list[Estimate]) -> float:
    values = np.array([one.value[0] for one in estimates])
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def table(draws: int) -> list[dict[str, Any]]:
    return [*weight_rows(draws), *illusion_rows(max(1, draws // 5))]
