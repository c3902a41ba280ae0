"""Who is faster, for which job: the llama.cpp server or the transformers model in this process?

    python benchmarks/judge.py [--quick] [--judge qwen-0.5b]

Jobs on real prompts, of the demo's windows cut from Wikipedia leads: label probabilities (windows judged per
second), the same of prompts that begin with a number of their own, so that no beginning is shared, and short texts
(explanations per second). The last line is JSON: medians over the rounds, the ratios llama.cpp / in process (above
1: the server is faster), and for either what sharing beginnings makes of the rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from itertools import islice

import numpy as np

from outcrop.config import JudgeConfig, ScoreConfig, TextConfig
from outcrop.demo.assets import Assets
from outcrop.demo.llama import llama_server
from outcrop.interp.clients.client import Client, connect
from outcrop.interp.prompts import Evidence, explain_messages
from outcrop.interp.scorers import detection
from outcrop.interp.scorers.judging import Arm
from outcrop.model.text import read_documents
from outcrop.types import (
    CoderKey,
    Example,
    Explanation,
    Hookpoint,
    LatentExamples,
    LatentId,
    Reply,
    Request,
    Vocabulary,
    Window,
)

WINDOW, PORT = 32, 8118


def requests(assets: Assets, n_labels: int, n_texts: int) -> tuple[list[Request], list[Request]]:
    """Detection prompts and explainer prompts of windows of 32 words."""
    texts = islice(read_documents(TextConfig(str(assets.leads()))), 16 * n_texts + n_labels)
    words = [[f" {word}" for word in text.split()[:WINDOW]] for text in texts]
    table = {word: i for i, word in enumerate(dict.fromkeys(word for line in words for word in line))}
    vocabulary = Vocabulary(tuple(word.encode() for word in table))
    windows = [_window([table[word] for word in line]) for line in words]
    scored = [Example(i, i, "score", window, stratum="random") for i, window in enumerate(windows[:n_labels])]
    arm = Arm("plain", _latent(tuple(scored)), _explanation())
    labels = [question.request for question in detection.questions([arm], vocabulary, ScoreConfig())]
    texts_asked = [
        Request(explain_messages(_evidence(windows[n_labels + 16 * i :][:16]), vocabulary), 32) for i in range(n_texts)
    ]
    return labels, texts_asked


def _explanation() -> Explanation:
    return Explanation(_latent(()).latent, "contrastive", "all", "the name of a person", "")


def _window(tokens: list[int]) -> Window:
    activations = np.zeros(len(tokens), dtype=np.float32)
    activations[:: max(1, len(tokens) // 2)] = 1.0
    return Window(np.array(tokens), activations, 0, 0, 0)


def _evidence(windows: list[Window]) -> Evidence:
    """Ten activating windows and six others, as the demo shows them."""
    quiet = (Window(w.tokens, np.zeros_like(w.activations), 0, 0, 0) for w in windows[10:])
    return Evidence(tuple(windows[:10]), tuple(quiet))


def _latent(scored: tuple[Example, ...]) -> LatentExamples:
    place = Hookpoint("model.layers.15")
    return LatentExamples(LatentId(CoderKey("b", place, place, 0), 0), 0.01, 0.1, (), scored, ())


def apart(asked: list[Request], start: int) -> list[Request]:
    """The same with different first words."""
    return [
        replace(
            one, messages=(replace(one.messages[0], content=f"{number}. {one.messages[0].content}"), *one.messages[1:])
        )
        for number, one in enumerate(asked, start)
    ]


def rate(client: Client, asked: list[Request]) -> float:
    """Answers per second."""
    start = time.perf_counter()
    answers = list(client.answer(asked))
    seconds = time.perf_counter() - start
    assert all(isinstance(answer, Reply) for _, answer in answers), "a request failed"
    return len(asked) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--judge", default="qwen-0.5b")
    arguments = parser.parse_args()
    rounds, n_labels, n_texts = (1, 24, 2) if arguments.quick else (3, 96, 6)
    assets, config = Assets(), JudgeConfig(concurrency=8, timeout_seconds=600)
    labels, texts = requests(assets, rounds * n_labels, rounds * n_texts)
    figures: dict[str, list[float]] = {}
    with llama_server(assets.server(), assets.gguf(arguments.judge), PORT, arguments.judge) as address:
        clients = {
            "llama.cpp": connect(address, None, config),
            "in process": connect(str(assets.judge(arguments.judge)), None, config),
        }
        for number in range(rounds):  # fresh prompts in each round, so that no cache answers for the model
            for name, client in clients.items():
                some, written = labels[number * n_labels :][:n_labels], texts[number * n_texts :][:n_texts]
                jobs = {
                    "labels": some,
                    "labels, nothing shared": apart(some, 100 + number * n_labels),
                    "texts": written,
                }
                for job, asked in jobs.items():
                    figures.setdefault(f"{name}, {job} per second", []).append(rate(client, asked))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, values in figures.items():
        print(f"{name:48} median {medians[name]:.2f}, from {min(values):.2f} to {max(values):.2f}")
    ratios = {
        f"{job}: llama.cpp / in process": medians[f"llama.cpp, {job} per second"]
        / medians[f"in process, {job} per second"]
        for job in ("labels", "texts")
    } | {
        f"{name}: shared / nothing shared": medians[f"{name}, labels per second"]
        / medians[f"{name}, labels, nothing shared per second"]
        for name in clients
    }
    print(json.dumps({k: round(v, 3) for k, v in {**medians, **ratios}.items()}))


if __name__ == "__main__":
    main()
