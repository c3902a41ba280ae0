"""A transformers causal language model in this process.

Label probabilities are read from the logits at the last prompt token:

    p(label) = Σ_t softmax(z)_t [strip(casefold(t)) = casefold(label)]

Prompts are sorted by their tokens, so that those that begin alike are neighbours. Each batch shares
its longest common prefix, which is run once; the next batch keeps of that key-value cache what it
begins with, too. So the worked examples with which all questions of a scorer begin are computed once
per call. What differs is not: the explanation stands behind the window, so each question costs its
window, its explanation and the question itself, and a window is shared only where the questions
about it would save more than `_NEW_GROUP_TOKENS`. Suffixes are padded on the right: causal attention
keeps real tokens from seeing the padding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache

from outcrop.interp.clients.chat import ChatTokens, expected_numbers, misfits
from outcrop.model.likelihood import spread
from outcrop.model.load import LanguageModel
from outcrop.types import Failure, Reply, Request

_GUESSED = 10  # tokens that go on as they did before, verified together: lists repeat themselves
_LIKELIEST = 20  # tokens at each place of a text, as of a server
_NEW_GROUP_TOKENS = 64  # how many tokens sharing must save to be worth a batch that is not full

Answer = tuple[int, Reply | Failure]


class LocalClient:
    """Answers up to `batch` prompts at once; texts are written greedily, one by one."""

    def __init__(self, lm: LanguageModel, batch: int) -> None:
        self._lm = lm
        self._batch = batch
        self.model = lm.identity
        self._tokens = ChatTokens(lm.tokenizer)
        self._label_tokens = lru_cache(self._find_label_tokens)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
        prompts = [self._tokens(request.messages) for request in requests]
        limit = getattr(self._lm.module.config, "max_position_embeddings", None) or 1 << 30
        too_long = misfits(prompts, requests, limit)
        yield from too_long.items()
        fitting = [index for index in range(len(requests)) if index not in too_long]
        yield from self._texts(requests, prompts, [i for i in fitting if not requests[i].labels])
        yield from self._labels(requests, prompts, [i for i in fitting if requests[i].labels])

    def _texts(self, requests: Sequence[Request], prompts: list[list[int]], chosen: list[int]) -> Iterator[Answer]:
        for index in chosen:
            started = time.monotonic()
            prompt = torch.tensor([prompts[index]], device=self._lm.device)
            found = self._lm.module.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=requests[index].max_tokens,
                do_sample=False,
                repetition_penalty=1.0,  # models come with others
                prompt_lookup_num_tokens=_GUESSED,
                pad_token_id=self._lm.tokenizer.eos_token_id,
                return_dict_in_generate=True,
                output_logits=requests[index].numbers_up_to is not None,
            )
            written = found.sequences[0, prompt.shape[1] :]
            text = self._lm.tokenizer.decode(written, skip_special_tokens=True)
            numbers = self._numbers(written, found.logits, requests[index].numbers_up_to)
            seconds = time.monotonic() - started
            reply = Reply(text, None, prompt.shape[1], written.shape[0], seconds, expected_numbers=numbers)
            yield index, reply if text.strip() else Failure("empty", "an answer without text")

    def _numbers(
        self, written: Int64[Tensor, " n"], logits: tuple[Tensor, ...] | None, largest: int | None
    ) -> tuple[float, ...] | None:
        if logits is None or largest is None:
            return None
        found = torch.cat(logits).log_softmax(-1).topk(_LIKELIEST)
        places = [
            [*zip(self._words(tokens), values.tolist(), strict=True)]
            for tokens, values in zip(found.indices, found.values, strict=True)
        ]
        return expected_numbers(self._words(written), places, largest)

    def _words(self, tokens: Int64[Tensor, " n"]) -> list[str]:
        return list(self._lm.tokenizer.batch_decode(tokens[:, None]))

    def _labels(self, requests: Sequence[Request], prompts: list[list[int]], chosen: list[int]) -> Iterator[Answer]:
        prefix = _Prefix(self._lm.module)
        for indices in batches(prompts, chosen, self._batch):
            started = time.monotonic()
            probabilities = prefix.next_token([prompts[i] for i in indices]).softmax(-1)
            seconds = (time.monotonic() - started) / len(indices)
            for index, row in zip(indices, probabilities, strict=True):
                yield index, self._label_reply(row, requests[index], len(prompts[index]), seconds)

    def _label_reply(
        self, row: Float[Tensor, " vocabulary"], request: Request, n_tokens: int, seconds: float
    ) -> Reply | Failure:
        if not row.isfinite().all():
            return Failure("unreadable", "the model's logits are not finite")
        text = self._lm.tokenizer.decode([int(row.argmax())])
        labels = tuple(float(row[self._label_tokens(label)].sum()) for label in request.labels)
        return Reply(text, labels, n_tokens, 1, seconds)

    def _find_label_tokens(self, label: str) -> Int64[Tensor, " n"]:
        tokenizer = self._lm.tokenizer
        words = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        found = [token for token, word in enumerate(words) if word.strip().casefold() == label.casefold()]
        return torch.tensor(found, dtype=torch.int64, device=self._lm.device)


def batches(prompts: Sequence[list[int]], chosen: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of prompts to be run together: like beginnings first, then like lengths."""
    for group in _groups(prompts, sorted(chosen, key=lambda i: prompts[i])):
        group.sort(key=lambda i: len(prompts[i]))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _groups(prompts: Sequence[list[int]], ordered: Sequence[int]) -> Iterator[list[int]]:
    """Cut where one more prompt would shorten the prefix that the others share by too much."""
    group: list[int] = []
    shared = 0
    for index in ordered:
        prompt = prompts[index]
        common = _n_common(prompts[group[-1]], prompt) if group else 0
        if group and (len(group) - 1) * (shared - common) > _NEW_GROUP_TOKENS:
            yield group
            group = []
        shared = min(shared, common) if group else len(prompt)
        group.append(index)
    if group:
        yield group


def _n_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


class _Prefix:
    """The key-value cache of the tokens with which the last batch began.

    The cache is of the plain kind for every architecture: one that drops what lies beyond a sliding
    window could not be cut back.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._tokens: list[int] = []
        self._cache = DynamicCache()

    def next_token(self, prompts: Sequence[list[int]]) -> Float[Tensor, "batch vocabulary"]:
        """Logits after each prompt, in float32."""
        n_shared = min(min(_n_common(prompts[0], prompt), len(prompt) - 1) for prompt in prompts)
        self._move(prompts[0][:n_shared])
        suffixes = [prompt[n_shared:] for prompt in prompts]
        width = max(map(len, suffixes))
        padded = torch.tensor([suffix + [0] * (width - len(suffix)) for suffix in suffixes])
        last = torch.tensor([len(suffix) - 1 for suffix in suffixes])
        return self._run(padded, last, spread(self._cache, len(prompts)))

    def _move(self, tokens: list[int]) -> None:
        """Make the cache that of these tokens, keeping what it begins with already."""
        n_kept = _n_common(self._tokens, tokens)
        if n_kept < len(self._tokens):
            self._cache.crop(n_kept - len(self._tokens))
        if n_kept < len(tokens):
            rest = torch.tensor([tokens[n_kept:]])
            self._run(rest, torch.tensor([rest.shape[1] - 1]), self._cache)
        self._tokens = tokens

    def _run(
        self, tokens: Int64[Tensor, "batch width"], last: Int64[Tensor, " batch"], cache: DynamicCache
    ) -> Float[Tensor, "batch vocabulary"]:
        """The vocabulary's matrix is applied where the answer stands only; within the model, so
        that what an architecture does to its logits is done."""
        device = self._module.device
        rows = torch.arange(len(last), device=device)
        hook = self._module.get_output_embeddings().register_forward_pre_hook(
            lambda head, arguments: (arguments[0][rows, last.to(device)].unsqueeze(1),)
        )
        try:
            logits = self._module(input_ids=tokens.to(device), past_key_values=cache, use_cache=True).logits
        finally:
            hook.remove()
        return logits[:, 0].float()
