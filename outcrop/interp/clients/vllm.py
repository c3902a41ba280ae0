"""vLLM's offline engine in this process: a judge named vllm:NAME.

The engine fills its batches itself and keeps the keys and values of prompts that begin alike. The
probability of a label is summed over the 20 likeliest first tokens, as for servers; prompts are made
as for a transformers model. Written for vLLM 0.19 and later, the first that runs beside transformers 5.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from outcrop.errors import JudgeError, shortened
from outcrop.interp.clients.chat import ChatTokens, expected_numbers, label_probabilities, misfits
from outcrop.types import Failure, Reply, Request

_TOP_LOGPROBS = 20  # the most that the engine gives by default
_AT_ONCE = 1024  # requests whose answers a killed run can lose; enough that their tail costs little
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
_SAMPLES = 1024  # places of each file of weights that go into its hash


class VLLMClient:
    """One model, loaded by vLLM onto the GPUs it finds."""

    def __init__(self, name: str) -> None:
        require_vllm()
        try:
            import vllm
            from vllm.sampling_params import StructuredOutputsParams

            self._engine = vllm.LLM(model=name, enable_prefix_caching=True, seed=0)
        except ImportError as error:
            raise JudgeError(
                f"vLLM cannot be imported ({shortened(str(error), 300)}). Expected version 0.19 or later, the first "
                "that runs beside transformers 5: pip install 'vllm>=0.19'."
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise JudgeError(
                f"The judge vllm:{name} cannot be loaded by vLLM: {shortened(str(error), 300)} "
                "Expected vllm: and a directory or hub name of a model that it supports, and room for it."
            ) from error
        self.model = _identity(name)
        self._tokens = ChatTokens(self._engine.get_tokenizer())
        self._sampling, self._structured = vllm.SamplingParams, StructuredOutputsParams

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        prompts = [self._tokens(request.messages) for request in requests]
        limit = self._engine.llm_engine.model_config.max_model_len
        too_long = misfits(prompts, requests, limit)
        yield from too_long.items()
        fitting = [index for index in range(len(requests)) if index not in too_long]
        for start in range(0, len(fitting), _AT_ONCE):
            yield from self._generate(requests, prompts, fitting[start : start + _AT_ONCE])

    def _generate(
        self, requests: Sequence[Request], prompts: list[list[int]], chosen: list[int]
    ) -> Iterator[tuple[int, Reply | Failure]]:
        started = time.monotonic()
        outputs = self._engine.generate(
            [{"prompt_token_ids": prompts[index]} for index in chosen],
            [self._sampling_params(requests[index]) for index in chosen],
            use_tqdm=False,
        )
        seconds = (time.monotonic() - started) / len(chosen)
        for index, output in zip(chosen, outputs, strict=True):
            yield index, _reply(output.outputs[0], requests[index], len(prompts[index]), seconds)

    def _sampling_params(self, request: Request) -> Any:
        return self._sampling(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=1 if request.labels else request.max_tokens,
            logprobs=_TOP_LOGPROBS if request.needs_probabilities else None,
            structured_outputs=self._structured(json=request.schema) if request.schema else None,
        )


def require_vllm() -> None:
    """JudgeError where the package is missing; nothing is loaded."""
    if "vllm" not in sys.modules and find_spec("vllm") is None:
        raise JudgeError(
            "A judge vllm:NAME needs the package vllm, which is not installed here. Install it (pip install "
            "'vllm>=0.19'), or name the address of a server that runs it."
        )


def _reply(written: Any, request: Request, n_tokens: int, seconds: float) -> Reply | Failure:
    probabilities = numbers = None
    likeliest = written.logprobs or []  # at each place, by token; what was written is among them
    places = [[(one.decoded_token or "", one.logprob) for one in place.values()] for place in likeliest]
    try:
        if request.labels and places:
            probabilities = label_probabilities(places[0], request.labels)
        if request.numbers_up_to is not None and places:
            said = [place[token].decoded_token or "" for place, token in zip(likeliest, written.token_ids, strict=True)]
            numbers = expected_numbers(said, places, request.numbers_up_to)
    except (ValueError, OverflowError) as error:
        return Failure("unreadable", str(error))
    if probabilities is None and not written.text.strip():
        return Failure("empty", "an answer without text")
    n_written = len(written.token_ids)
    return Reply(written.text, probabilities, n_tokens, n_written, seconds, expected_numbers=numbers)


def _identity(name: str) -> str:
    """A hub name as it is; of a directory or file the last part, and a hash of samples of its weights."""
    path = Path(name)
    if not path.exists():
        return name
    files = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS) if path.is_dir() else [path]
    if not files:
        raise JudgeError(f"{path} holds no weights; expected files that end in {', '.join(_WEIGHTS)}")
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}{size}".encode())
        with file.open("rb") as weights:
            for place in range(0, size, max(1, size // _SAMPLES)):
                weights.seek(place)
                digest.update(weights.read(64))
    return f"{path.name}-{digest.hexdigest()[:12]}"
