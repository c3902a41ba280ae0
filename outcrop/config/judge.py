"""The language models that explain and judge, and how they are asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from outcrop.config.strict import Strict, require


@dataclass(frozen=True)
class JudgeConfig(Strict):
    """The language models that explain and judge. Keys are read from OPENAI_API_KEY."""

    name: Annotated[str | None, arg(name="judge", prefix_name=False)] = None
    """Address of an OpenAI-compatible server (http://…/v1), or a transformers model (directory,
    hub name or .gguf file) that runs in this process."""
    explainer: Annotated[str | None, arg(name="explainer", prefix_name=False)] = None
    """The same, for writing explanations; by default the judge."""
    model: str | None = None
    """Name of the model on the judge's server; by default the first that it serves."""
    explainer_model: str | None = None
    """Name of the model on the explainer's server; by default the first that it serves."""
    concurrency: int = 8
    """Requests in flight at a server, or prompts in a batch of a model in this process."""
    timeout_seconds: float = 60.0
    """How long one attempt may take."""
    attempts: int = 5
    """How often a request is tried where trying again can help."""

    def __post_init__(self) -> None:
        for name in (self.name, self.explainer):
            require(
                name is None or not re.match(r"[\w.-]+:\d+(/|$)", name),
                f"{name} names a server without saying how it is reached; write http://{name}",
            )
        require(self.concurrency >= 1, f"judge.concurrency is {self.concurrency}; it must be at least 1")
        require(self.timeout_seconds > 0, f"judge.timeout-seconds is {self.timeout_seconds}; it must be positive")
        require(self.attempts >= 1, f"judge.attempts is {self.attempts}; it must be at least 1")
