"""`outcrop demo`: a stack of three sparse layers on SmolLM2-135M, trained, cached, explained, scored, shown."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outcrop.config import (
    CacheConfig,
    CoderConfig,
    ExamplesConfig,
    JudgeConfig,
    ModelConfig,
    RunConfig,
    ScoreConfig,
    SelectConfig,
    TextConfig,
    TrainConfig,
)
from outcrop.demo.assets import Assets
from outcrop.demo.llama import llama_server
from outcrop.interp.clients.client import Client, connect
from outcrop.progress import Progress, silent

EMBEDDED = ("qwen-0.5b", "qwen-1.5b")


@dataclass(frozen=True)
class DemoCommand:
    """The whole road on SmolLM2-135M and the leads of Wikipedia, both pinned downloads. Takes some minutes."""

    out: Path = Path("runs/demo")
    """The run directory. One that exists is gone on with."""
    judge: str = "qwen-0.5b"
    """qwen-0.5b or qwen-1.5b (slower, better), a transformers model, or the address of an
    OpenAI-compatible server (http://…/v1)."""
    port: int = 8117
    """Where the embedded explainer listens, on loopback."""
    fresh: bool = False
    """Make anew what was made with other settings, instead of refusing."""
    retry_failed: bool = False
    """Ask the explainer and the judge again where they gave no answer."""


def demo_config(command: DemoCommand, assets: Assets) -> RunConfig:
    """Sizes that keep two cores busy for about a quarter of an hour."""
    embedded = command.judge in EMBEDDED
    return RunConfig(
        model=ModelConfig(name=str(assets.language_model())),
        text=TextConfig(path=str(assets.leads())),
        hookpoints=("model.layers.15",),
        coder=CoderConfig(n_latents=2_304, k=16, layers=3),
        train=TrainConfig(tokens=400_000, held_out_tokens=16_384, ce_tokens=2_048),
        cache=CacheConfig(tokens=205_000, shard_tokens=40_000),
        select=SelectConfig(n_latents=24),
        examples=ExamplesConfig(explain_random=1, explain_neighbour=1, score_neighbour=5),
        score=ScoreConfig(controls=("none",)),
        judge=JudgeConfig(
            name=str(assets.judge(command.judge)) if embedded else command.judge,
            explainer=f"http://127.0.0.1:{command.port}/v1" if embedded else None,
            timeout_seconds=600.0,  # eight explanations at once take a slow processor minutes
        ),
    )


class DemoConnector:
    """Connects like everyone, but starts the embedded explainer's server when it is first asked for."""

    def __init__(self, command: DemoCommand, assets: Assets, config: RunConfig) -> None:
        self._command, self._assets, self._config = command, assets, config
        self._servers = ExitStack()

    def __enter__(self) -> DemoConnector:
        return self

    def __exit__(self, *_: Any) -> None:
        self._servers.close()

    def __call__(self, name: str, model: str | None, config: JudgeConfig) -> Client:
        if name == self._config.judge.explainer:
            model = self._command.judge  # a foreign server on this port is refused
            judge = self._command.judge
            gguf, module = self._assets.gguf(judge), self._assets.server()
            self._servers.enter_context(llama_server(module, gguf, self._command.port, judge))
        return connect(name, model, config)


def prepare(command: DemoCommand, progress: Progress = silent) -> tuple[RunConfig, DemoConnector]:
    """The demo's settings and its connector; downloads what is not in the cache folder."""
    assets = Assets(progress=progress)
    config = demo_config(command, assets)
    if command.judge in EMBEDDED:
        assets.gguf(command.judge), assets.server()
    return config, DemoConnector(command, assets, config)
