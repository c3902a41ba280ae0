"""Finding hookpoints, capturing what passes there, and putting something else in its place.

A forward pass for capturing ends as soon as the last hookpoint has been seen.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from outcrop.errors import HookpointError
from outcrop.model.load import LanguageModel
from outcrop.types import Hookpoint, Place

Activations = dict[Hookpoint, Float[Tensor, "b t d"]]


class _AllSeen(Exception):
    """Ends a forward pass whose hookpoints have all been captured."""


def find_hookpoints(model: nn.Module, patterns: Sequence[str]) -> list[Hookpoint]:
    """The modules that the patterns name, in the model's order; `*` is one part of a path or a piece of one."""
    paths = [path for path, _ in model.named_modules() if path]
    found: set[Hookpoint] = set()
    for pattern in patterns:
        wanted = Hookpoint.parse(pattern)
        matches = {Hookpoint(path, wanted.side) for path in paths if _matches(path, wanted.path)}
        if not matches:
            near = difflib.get_close_matches(wanted.path, paths, n=4, cutoff=0.3)
            raise HookpointError(
                f"the model has no module {wanted.path!r}; the nearest are {', '.join(near) or 'none'}. "
                "`outcrop hookpoints MODEL` lists them all."
            )
        found |= matches
    order = {path: i for i, path in enumerate(paths)}
    return sorted(found, key=lambda hookpoint: (order[hookpoint.path], hookpoint.side))


def find_places(model: nn.Module, patterns: Sequence[str]) -> list[Place]:
    """Where coders read and what they predict. `SOURCE->TARGET` makes a transcoder; without an arrow both are one.

    Wildcards on both sides pair up in the model's order; HookpointError where they do not match as often.
    """
    places: list[Place] = []
    for pattern in patterns:
        source, arrow, target = pattern.partition("->")
        sources = find_hookpoints(model, [source])
        targets = find_hookpoints(model, [target]) if arrow else sources
        if len(sources) != len(targets):
            raise HookpointError(
                f"{pattern!r} names {len(sources)} sources and {len(targets)} targets; each source needs one target"
            )
        places += zip(sources, targets, strict=True)
    return list(dict.fromkeys(places))


def _matches(path: str, pattern: str) -> bool:
    """Part by part, so that `model.layers.*` names the blocks and not what is in them."""
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def hookpoint_widths(model: LanguageModel) -> dict[Hookpoint, int]:
    """Width of every hookpoint whose value is one tensor per token, seen on a tiny forward pass."""
    widths: dict[Hookpoint, int] = {}
    tokens = torch.zeros(2, 3, dtype=torch.long, device=model.device)

    def noting(hookpoint: Hookpoint) -> Callable[[Any], None]:
        def note(value: Any) -> None:
            if isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == tokens.shape:
                widths[hookpoint] = value.shape[2]

        return note

    with ExitStack() as stack, torch.inference_mode():
        for path, _ in model.module.named_modules():
            for side in ("input", "output") if path else ():
                hookpoint = Hookpoint(path, side)
                stack.enter_context(_hooked(model.module, hookpoint, noting(hookpoint)))
        model.module(input_ids=tokens, use_cache=False)
    return widths


def wildcards(widths: Mapping[Hookpoint, int]) -> Counter[tuple[str, int]]:
    """Hookpoints of one width that differ in numbers only are one pattern; with how many each names."""
    return Counter((re.sub(r"\.\d+(?=[.:]|$)", ".*", str(hookpoint)), width) for hookpoint, width in widths.items())


def place_widths(model: LanguageModel, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """Widths of source and target; HookpointError for one that does not carry one vector per token, and for a target
    that a forward pass reaches before its source."""
    widths = hookpoint_widths(model)
    for hookpoint in (hookpoint for place in places for hookpoint in place):
        if hookpoint not in widths:
            raise _no_vectors(hookpoint)
    order = list(widths)
    for source, target in places:
        if order.index(source) > order.index(target):
            raise HookpointError(f"a forward pass reaches {target} before {source}, from which it cannot be predicted")
    return {(source, target): (widths[source], widths[target]) for source, target in places}


def capture(model: LanguageModel, tokens: Int[Tensor, "b t"], hookpoints: Sequence[Hookpoint]) -> Activations:
    """What passes the hookpoints. Right-padded tokens are safe: a causal model's real positions never see them."""
    seen: Activations = {}

    def keep(hookpoint: Hookpoint, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or tensor.ndim != 3 or tensor.shape[:2] != tokens.shape:
            raise _no_vectors(hookpoint)
        seen[hookpoint] = tensor.clone()  # some models go on in place
        if len(seen) == len(hookpoints):
            raise _AllSeen

    with ExitStack() as stack, torch.inference_mode():
        for hookpoint in hookpoints:
            stack.enter_context(_hooked(model.module, hookpoint, partial(keep, hookpoint)))
        try:
            model.module(input_ids=tokens, use_cache=False)
        except _AllSeen:
            return seen
    missing = [str(hookpoint) for hookpoint in hookpoints if hookpoint not in seen]
    raise HookpointError(f"the forward pass never reached {', '.join(missing)}; choose a module that the model runs")


def _no_vectors(hookpoint: Hookpoint) -> HookpointError:
    return HookpointError(
        f"{hookpoint} does not carry one vector per token; `outcrop hookpoints MODEL` lists those that do"
    )


@contextmanager
def replaced(
    model: LanguageModel, hookpoint: Hookpoint, change: Callable[[Float[Tensor, "b t d"]], Float[Tensor, "b t d"]]
) -> Iterator[None]:
    """Within, `change` is applied to what passes the hookpoint."""
    with _hooked(model.module, hookpoint, change):
        yield


@contextmanager
def _hooked(model: nn.Module, hookpoint: Hookpoint, act: Callable[[Any], Tensor | None]) -> Iterator[None]:
    """Calls `act` with the hookpoint's tensor; what it returns, unless None, takes the tensor's place."""
    module = model.get_submodule(hookpoint.path)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if args:
            changed = act(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        if not kwargs:
            return None
        name, tensor = next(iter(kwargs.items()))
        changed = act(tensor)
        return None if changed is None else ((), {**kwargs, name: changed})

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple) or not output:
            return act(output)
        changed = act(output[0])
        return None if changed is None else (changed, *output[1:])

    if hookpoint.side == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
