"""The language models that explain and judge, and how they are asked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from tyro.conf import arg

from outcrop.config.strict import Strict, require
from outcrop.errors import ConfigError

Role = Literal["explainer", "judge"]


@dataclass(frozen=True)
class Price:
    """US$ per million tokens."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """In US$."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass(frozen=True)
class JudgeConfig(Strict):
    """The language models that explain and judge. Keys are read from OPENAI_API_KEY."""

    name: Annotated[str | None, arg(name="judge", prefix_name=False)] = None
    """Address of an OpenAI-compatible server (http://…/v1), or several of one model, separated by commas; or a
    transformers model (directory, hub name or .gguf file) that runs in this process; or vllm:NAME, by vLLM."""
    explainer: Annotated[str | None, arg(name="explainer", prefix_name=False)] = None
    """The same, for writing explanations; by default the judge."""
    model: str | None = None
    """Name of the model on the judge's server; by default the first that it serves."""
    explainer_model: str | None = None
    """Name of the model on the explainer's server; by default the first that it serves."""
    concurrency: int = 8
    """Requests in flight at each server, or prompts in a batch of a model in this process."""
    timeout_seconds: float = 60.0
    """How long one attempt may take."""
    attempts: int = 5
    """How often a request is tried where trying again can help."""
    prices: tuple[str, ...] = ()
    """What models cost, in US$ per million prompt and completion tokens, by their names: gpt-4o-mini=0.15/0.60."""
    max_cost: float | None = None
    """US$ that one run of the program may spend; it needs the prices of all that is served."""
    max_requests: int | None = None
    """Requests that one run of the program may send."""
    replies: Path | None = None
    """A file of replies that several runs share; by default the run's own."""

    def __post_init__(self) -> None:
        for name in (self.name, self.explainer):
            if name is not None:
                _check_name(name)
        require(self.concurrency >= 1, f"judge.concurrency is {self.concurrency}; it must be at least 1")
        require(self.timeout_seconds > 0, f"judge.timeout-seconds is {self.timeout_seconds}; it must be positive")
        require(self.attempts >= 1, f"judge.attempts is {self.attempts}; it must be at least 1")
        names = [_read_price(entry)[0] for entry in self.prices]
        for model in names:
            require(names.count(model) == 1, f"judge.prices has {names.count(model)} prices of {model}; give one")
        if self.max_cost is not None:
            require(self.max_cost > 0, f"judge.max-cost is {self.max_cost}; it must be positive")
            require(
                bool(self.prices),
                f"judge.max-cost is {self.max_cost}, but nothing is known to cost anything; give --judge.prices "
                "MODEL=PROMPT/COMPLETION in US$ per million tokens",
            )
        if self.max_requests is not None:
            require(self.max_requests >= 1, f"judge.max-requests is {self.max_requests}; it must be at least 1")

    def price(self, model: str) -> Price | None:
        """What the model of this name costs; None where that is not known."""
        return dict(map(_read_price, self.prices)).get(model)


def addresses(name: str) -> tuple[str, ...]:
    """The addresses of servers in a judge's name; none where it names a model of this process."""
    if not name.startswith(("http://", "https://")):
        return ()
    return tuple(part.strip() for part in name.split(","))


def _check_name(name: str) -> None:
    for part in addresses(name) or (name,):
        require(
            not re.match(r"[\w.-]+:\d+(/|$)", part),
            f"{part} names a server without saying how it is reached; write http://{part}",
        )
    for address in addresses(name):
        require(
            address.startswith(("http://", "https://")),
            f"{name!r} has {address!r} beside addresses; expected http://… or https://… between all commas",
        )
        require(_has_host(address), f"{address} is no address; expected http://HOST:PORT/… with a port up to 65535")
        require(
            addresses(name).count(address) == 1,
            f"{name!r} names {address} twice; name each server once (judge.concurrency asks more of it)",
        )


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # of the port, or of brackets
        return False


def _read_price(entry: str) -> tuple[str, Price]:
    model, _, price = entry.rpartition("=")
    try:
        prompt, completion = map(float, price.split("/"))
    except ValueError:
        prompt = completion = math.nan
    if not model or not (0 <= prompt < math.inf and 0 <= completion < math.inf):
        raise ConfigError(
            f"judge.prices has {entry!r}; expected MODEL=PROMPT/COMPLETION in US$ per million tokens, "
            "as in gpt-4o-mini=0.15/0.60"
        )
    return model, Price(prompt, completion)
