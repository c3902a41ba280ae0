"""A small made-up run: one coder of three layers with 14 latents each, of which nine were selected.

Windows are built by hand from templates; every status of the ledger occurs, one latent has no
same_token stratum, and some text is hostile.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from outcrop.config import ReportConfig
from outcrop.report.summary import summarise
from outcrop.report.tables import Tables, read_tables
from outcrop.results import CoderRow, LatentRow, Results
from outcrop.types import (
    CoderKey,
    CrossEntropy,
    Example,
    Explanation,
    Failure,
    Hookpoint,
    Judgement,
    LatentExamples,
    LatentId,
    LayerReconstruction,
    Reconstruction,
    StratumShare,
    Vocabulary,
    Window,
)

N_LAYERS, PER_LAYER, WIDTH, N_TOKENS, N_WINDOWS = 3, 14, 24, 200_000, 8_000
KEY = CoderKey("topk", Hookpoint("transformer.h.5"), Hookpoint("transformer.h.5"), 0)
HOSTILE = '<script>alert("1")</script> <b>bold</b> \' " & \u202eevil\u202c ' + "x" * 100_000

FILLER = (
    "The ferry left the harbour before dawn and the gulls followed it for an hour .",
    "She folded the letter twice , put it in the drawer and did not speak of it again .",
    "Prices rose faster than wages in the spring ,\n and the shops along the canal closed early .",
    "In 1912 the survey reached the upper valley , where slate lies above the older limestone .",
    "He asked whether anybody had seen the key ; nobody had , or nobody would say so .",
    "The committee will meet again on Thursday to hear what the auditors have found .",
    "def total ( rows ) :\n return sum ( row . price for row in rows )",
    "Rain came in from the west , thin at first , then heavy enough to stop the match .",
)


@dataclass(frozen=True)
class Topic:
    """A made-up latent: what was said of it, and the sentences it fires in."""

    index: int
    explanation: str | None
    trigger: str
    templates: tuple[str, ...]
    skill: float = 1.0  # how well the judge follows the explanation
    firing_rate: float = 1e-3
    same_token: float = 0.004  # v_s; 0: no such stratum
    failure: Failure | None = None
    judged: str = "yes"  # "yes", "some fail", "all fail", "no"


TOPICS = (
    Topic(3, "dogs at the park, and what they do there", "dog", (
        "A dog ran across the park and barked at the ducks until its owner called .",
        "Every morning the same brown dog sleeps in the park under the old chestnut .",
    ), 1.2, 8e-4, 0.002),
    Topic(7, "the word “bank” where it means an institution that lends money", "bank", (
        "The bank raised its rate by half a point , the third time in a year .",
        "They owed the bank more than the farm had earned since the war .",
    ), 0.9, 2e-3, 0.006),
    Topic(12, "closing brackets in program code", ")", (
        "print ( sorted ( names ) ) ;\n return len ( names )",
        "assert total ( rows ) == 3\n for row in rows : print ( row )",
    ), 1.4, 2e-2, 0.01, judged="some fail"),
    Topic(17, "years in the nineteenth and early twentieth century", "1912", (
        "In 1912 the line was extended to the coast , and the mill doubled its output .",
        "The second edition of 1912 leaves out the preface and corrects the maps .",
    ), 1.0, 1e-3, 0.0),
    Topic(22, "expressions of doubt or hedging in reported speech", "whether", (
        "She wondered whether the train would run at all on such a night .",
        "It is not clear whether the figures include the northern counties .",
    ), 0.5, 5e-3, 0.02),
    Topic(30, HOSTILE, "ferry", (
        "The ferry to the islands <script>alert(1)</script> runs twice a day in \u202ewinter\u202c .",
        "No ferry sailed on Sunday ;\n\n the pier was closed \t for repairs " + "é" * 100_000 + " .",
    ), 0.8, 6e-4, 0.001),
    Topic(34, None, "slate", (
        "Blue slate from the quarry roofs every house between the river and the church .",
        "They split the slate by hand , along the grain , while it was still damp .",
    ), failure=Failure("timeout", 'no answer in 60 s from "http://judge" <img src=x onerror=alert(1)>')),
    Topic(36, "days of the week", "Thursday", (
        "The meeting was moved to Thursday because the hall is let on Fridays .",
        "On Thursday the first boats came back , low in the water with herring .",
    ), judged="all fail"),
    Topic(39, "weather that interrupts sport", "match", (
        "The match was stopped after an hour , and the covers stayed on until five .",
        "Nobody expected the match to finish once the lightning began over the stand .",
    ), judged="no"),
)  # fmt: skip


class Words:
    """A vocabulary of whole words with their leading space, grown as text is met."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._token: dict[str, int] = {}

    def token(self, word: str) -> int:
        if word not in self._token:
            self._token[word] = len(self.pieces)
            self.pieces.append(word.encode())
        return self._token[word]

    def window(self, text: str, trigger: str, peak: float, row: int) -> Window:
        words = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))][:WIDTH]
        activations = np.zeros(len(words), dtype=np.float32)
        if peak > 0:
            hit = next(i for i, word in enumerate(words) if word.strip() == trigger)
            activations[hit] = peak
            activations[hit + 1 : hit + 3] = peak * np.array([0.4, 0.15])[: len(words) - hit - 1]
        return Window(np.array([self.token(word) for word in words]), activations, row // 8, row % 8, row)


@dataclass
class Run:
    results: Results
    examples: list[LatentExamples]
    vocabulary: Vocabulary
    reconstructions: list[Reconstruction]
    topics: tuple[Topic, ...] = field(default=TOPICS)


def build(seed: int = 0) -> Run:
    rng, words = np.random.default_rng(seed), Words()
    results = Results()
    results.add_coder(
        CoderRow(KEY, N_LAYERS, PER_LAYER, WIDTH, N_TOKENS, 1_300, 4_200, N_WINDOWS, 900), _latent_rows(rng)
    )
    examples = [_examples(topic, words, rng) for topic in TOPICS]
    results.add_examples(examples)
    results.add_explanations(
        Explanation(LatentId(KEY, t.index), "contrastive", "all", t.explanation, f"hash{t.index}", t.failure)
        for t in TOPICS
    )
    for topic, latent in zip(TOPICS, examples, strict=True):
        results.add_judgements(_judgements(topic, latent, rng))
    return Run(results, examples, Vocabulary(tuple(words.pieces)), [reconstruction()])


def _latent_rows(rng: np.random.Generator) -> list[LatentRow]:
    topics = {topic.index: topic for topic in TOPICS}
    return [_latent_row(i, topics.get(i), float(10 ** rng.uniform(-4.5, -1.5))) for i in range(N_LAYERS * PER_LAYER)]


def _latent_row(index: int, topic: Topic | None, rate: float) -> LatentRow:
    latent, layer = LatentId(KEY, index), index // PER_LAYER
    if topic is None and index % 8 == 1:
        return LatentRow(
            latent, layer, 0, 0, 0, 0.0, 0.0, None, None, None, None, False, False, False, False, None, None
        )
    rate = topic.firing_rate if topic else rate
    rare = topic is None and index % 8 == 5
    context_rate = min(1.0, rate * WIDTH * 0.7)
    counts = round(rate * N_TOKENS) + 1, round(context_rate * N_WINDOWS) + 1
    activations, dependence, flags = (2.0 + index / 20, 9.0 + index / 10), (0.3, 0.9), (False, False, False)
    chance = 0.25 if topic else None
    return LatentRow(
        latent, layer, 0, *counts, rate, context_rate, *activations, *dependence, *flags, rare, chance, None
    )


def _examples(topic: Topic, words: Words, rng: np.random.Generator) -> LatentExamples:
    explain, score = [], []
    for _ in range(2):
        explain += [_activating(topic, words, q, rng) for q in range(1, 6)]
    explain += [_negative("random", topic, words, rng) for _ in range(3)]
    for _ in range(4):
        score += [_activating(topic, words, q, rng) for q in range(1, 6)]
    score += [_negative("random", topic, words, rng) for _ in range(20)]
    shares = [StratumShare("random", 1 - topic.same_token, round((1 - topic.same_token) * N_WINDOWS))]
    if topic.same_token > 0:
        score += [_negative("same_token", topic, words, rng) for _ in range(10)]
        shares.append(StratumShare("same_token", topic.same_token, round(topic.same_token * N_WINDOWS)))
    numbered = [replace(e, index=i, split="explain" if i < len(explain) else "score")
                for i, e in enumerate(explain + score)]  # fmt: skip
    return LatentExamples(LatentId(KEY, topic.index), topic.firing_rate, topic.firing_rate * WIDTH * 0.7,
                          tuple(numbered[: len(explain)]), tuple(numbered[len(explain) :]), tuple(shares))  # fmt: skip


def _activating(topic: Topic, words: Words, quantile: int, rng: np.random.Generator) -> Example:
    row = int(rng.integers(N_WINDOWS))
    text = f"{rng.choice(topic.templates)} {rng.choice(FILLER)}"
    return Example(0, row, "score", words.window(text, topic.trigger, quantile * 1.7 + rng.uniform(), row), quantile)


def _negative(stratum: str, topic: Topic, words: Words, rng: np.random.Generator) -> Example:
    row = int(rng.integers(N_WINDOWS))
    text = f"{rng.choice(FILLER)} {rng.choice(FILLER)}"
    if stratum == "random":
        return Example(0, row, "score", words.window(text, "", 0.0, row), stratum="random")
    first, rest = text.split(" ", 1)
    source = words.token(f" {topic.trigger}")
    window = words.window(f"{first} {topic.trigger} {rest}", "", 0.0, row)
    return Example(0, row, "score", window, stratum="same_token", source=source)


def _judgements(topic: Topic, latent: LatentExamples, rng: np.random.Generator) -> list[Judgement]:
    if topic.explanation is None or topic.judged == "no":
        return []
    judgements = []
    for example in latent.score:
        base = Judgement(latent.latent, "detection", "plain", "contrastive", "all", example.index)
        hard = (example.quantile or 5) / 5 if example.activating else 0.5 if example.stratum == "same_token" else 1
        logit = (1 if example.activating else -1) * 3 * topic.skill * hard + rng.normal()
        judgements.append(_answered(base, logit) if topic.judged != "all fail" else _failed(base))
        if topic.judged == "some fail" and example.index % 11 == 0:
            judgements[-1] = _failed(base)
        judgements.append(_answered(replace(base, arm="none", explainer="", source=""), rng.normal() - 1))
        token = rng.normal() + (2 if example.activating or example.stratum == "same_token" else -4)
        judgements.append(_answered(replace(base, scorer="token_baseline", explainer="", source=""), token))
    return judgements


def _answered(base: Judgement, logit: float) -> Judgement:
    probability = float(1 / (1 + np.exp(-logit)))
    return replace(base, probability=probability, predicted=probability > 0.5, request="r")


def _failed(base: Judgement) -> Judgement:
    return replace(base, failure=Failure("unreadable", "the answer was “perhaps <i>so</i>”"))


def reconstruction() -> Reconstruction:
    layers = (
        LayerReconstruction(0.31, 32.0, 0.62, 0.0, 0.01),
        LayerReconstruction(0.22, 31.8, 0.25, 0.002, 0.04),
        LayerReconstruction(0.18, 31.9, 0.13, 0.011, 0.09),
    )
    ce = CrossEntropy(8_192, clean=3.21, coder=3.34, zero=8.9, mean=6.4, kl=0.11)
    return Reconstruction(KEY, 32_768, 1_000_000, 10_000_000, 1.09, 212.0, 0.18, 95.7, layers, ce)


def copied(run: Run) -> Results:
    copy = Results()
    run.results._db.backup(copy._db)
    return copy


@pytest.fixture(scope="session")
def run() -> Run:
    return build()


@pytest.fixture(scope="session")
def tables(run: Run) -> Tables:
    return read_tables(run.results)


@pytest.fixture(scope="session")
def summary(run: Run, tables: Tables) -> dict:
    return summarise(tables, run.reconstructions, ReportConfig())
