"""Explanations: one phrase per latent and explainer.

    default        from activating windows alone
    contrastive    beside non-activating ones
    bands          contrastive, from each third of the activating windows by peak: low, middle, high
    output         contrastive, with the tokens that the latent makes the model write
    iterative      contrastive, tried on windows of its own, and again with the mistakes (`iterative`)
    single_token   the tokens of a pure token latent; of others a failure (`token_rule`)
    token_rule     the tokens that set a latent off (`token_rule`)

A reply that holds no phrase is a failure with its reason, never an explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from outcrop.config import ExplainConfig
from outcrop.config.judging import TOKEN_RULES
from outcrop.errors import ConfigError
from outcrop.interp.clients.client import Client
from outcrop.interp.explainers.iterative import iterative
from outcrop.interp.explainers.telling import WHOLE, Telling, evidence_of, tell
from outcrop.interp.explainers.token_rule import token_rules
from outcrop.interp.prompts import Evidence
from outcrop.progress import Progress, silent
from outcrop.types import Explanation, LatentExamples, LatentId, TokenEvidence, Vocabulary

BANDS = ("low", "middle", "high")

Promoted = Mapping[LatentId, Sequence[int]]


def explain(
    examples: Sequence[LatentExamples],
    client: Client | None,
    vocabulary: Vocabulary,
    config: ExplainConfig,
    *,
    judge: Client | None = None,
    evidence: Iterable[TokenEvidence] = (),
    promoted: Promoted | None = None,
    progress: Progress = silent,
) -> Iterator[Explanation]:
    """The explanations of every explainer, in order of completion.

    `client` may be missing where no explainer asks. `judge` tries the phrases of `iterative`, by default `client`;
    token rules are made of `evidence`; `promoted` holds the tokens for `output`, the most promoted first. ConfigError,
    at once, where one is wanted without what it needs.
    """
    if config.asking and client is None:
        raise ConfigError(f"the explainers {', '.join(config.asking)} ask a language model, but none is given")
    if "output" in config.explainers and promoted is None:
        raise ConfigError("the explainer output is wanted, but no promoted tokens are given")
    wanted = {*config.explainers} & {*TOKEN_RULES}
    rules = token_rules(evidence, vocabulary, wanted) if wanted else iter(())
    return chain(
        rules, () if client is None else _asked(examples, client, vocabulary, config, judge, promoted, progress)
    )


def _asked(
    examples: Sequence[LatentExamples],
    client: Client,
    vocabulary: Vocabulary,
    config: ExplainConfig,
    judge: Client | None,
    promoted: Promoted | None,
    progress: Progress,
) -> Iterator[Explanation]:
    of_latent = {one.latent: evidence_of(one.explain, (promoted or {}).get(one.latent, ())) for one in examples}
    tellings = [
        Telling(latent, name, source, shown)
        for name in config.explainers
        if name in _SHOWN
        for latent, whole in of_latent.items()
        for source, shown in _SHOWN[name](whole)
    ]
    with progress("explain", len(tellings), "explanations") as advance:
        yield from tell(tellings, client, vocabulary, config, advance)
    if "iterative" in config.explainers:
        yield from iterative(examples, client, judge or client, vocabulary, config, progress)


Shown = Iterator[tuple[str, Evidence]]


def _default(whole: Evidence) -> Shown:
    yield WHOLE, Evidence(whole.activating)


def _contrastive(whole: Evidence) -> Shown:
    yield WHOLE, Evidence(whole.activating, whole.others)


def _output(whole: Evidence) -> Shown:
    yield WHOLE, whole


def _bands(whole: Evidence) -> Shown:
    by_peak = sorted(whole.activating, key=lambda window: float(window.activations.max()))
    for band, part in zip(BANDS, np.array_split(np.arange(len(by_peak)), len(BANDS)), strict=True):
        yield band, Evidence(tuple(by_peak[i] for i in part), whole.others)


_SHOWN: dict[str, Callable[[Evidence], Shown]] = {
    "default": _default,
    "contrastive": _contrastive,
    "bands": _bands,
    "output": _output,
}
