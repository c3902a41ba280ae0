"""Several processes of `torch.distributed` that train as one: data parallel, with equal weights in each.

    a block        each process makes its share of the forward passes, and what they give goes to all
    a batch        each computes its part; gradients are summed, firings joined
    an update      every process makes the same one

Up to the order of sums this equals a single process, but for BatchTopK, AuxK and the spread, which each part has for
itself. Without a process group, all of it is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from outcrop.model.activations import Captured, PaddedContexts, batch_activations, padded_batches
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.types import ActivationBatch, Hookpoint


def size() -> int:
    return dist.get_world_size() if _is_on() else 1


def rank() -> int:
    return dist.get_rank() if _is_on() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and logs."""
    return rank() == 0


def part(batch: ActivationBatch) -> ActivationBatch:
    """This process's part of a batch."""
    if not _is_on():
        return batch
    source = batch.source.tensor_split(size())[rank()]
    target = source if batch.target is batch.source else batch.target.tensor_split(size())[rank()]
    return ActivationBatch(source, target, batch.position.tensor_split(size())[rank()])


def summed(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over all processes, in place."""
    if _is_on():
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Over all processes, in place; one that had nothing to compute adds zeros."""
    if not _is_on():
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def any_of(mask: Bool[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """True where it is in any process."""
    if not _is_on():
        return mask
    counts = mask.to(torch.int32)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return counts > 0


def activations(
    model: LanguageModel, corpus: Corpus, contexts: range, hookpoints: Sequence[Hookpoint], batch_tokens: int
) -> Iterator[Captured]:
    """As `outcrop.model.activations.activations`, the forward passes spread over the processes."""
    passes = list(padded_batches(corpus, contexts, batch_tokens))
    if not _is_on():
        yield from (batch_activations(model, corpus, batch, hookpoints) for batch in passes)
        return
    own = {i: batch_activations(model, corpus, passes[i], hookpoints) for i in range(rank(), len(passes), size())}
    example = next(iter(own.values())).at if own else {}
    widths = _widths(example, hookpoints)
    for i, batch in enumerate(passes):
        yield _exchanged(own.get(i), batch, corpus, hookpoints, widths, i % size(), model)


def _exchanged(
    own: Captured | None,
    batch: PaddedContexts,
    corpus: Corpus,
    hookpoints: Sequence[Hookpoint],
    widths: dict[Hookpoint, int],
    owner: int,
    model: LanguageModel,
) -> Captured:
    """What one forward pass gave in the process that made it, in all of them."""
    position = batch.position[batch.eligible(corpus)]
    dtype, device = model.module.dtype, model.device
    at = {}
    for hookpoint in hookpoints:
        tensor = own.at[hookpoint] if own else torch.empty(len(position), widths[hookpoint], dtype=dtype, device=device)
        dist.broadcast(tensor, owner)
        at[hookpoint] = tensor
    return Captured(position, at)


def _widths(own: dict[Hookpoint, Tensor], hookpoints: Sequence[Hookpoint]) -> dict[Hookpoint, int]:
    """Of every hookpoint, also for a process that had no forward pass to make."""
    widths = torch.tensor([own[hookpoint].shape[1] if own else 0 for hookpoint in hookpoints])
    dist.all_reduce(widths, dist.ReduceOp.MAX)
    return dict(zip(hookpoints, widths.tolist(), strict=True))


def wait_for_all() -> None:
    if _is_on():
        dist.barrier()


def _is_on() -> bool:
    return dist.is_available() and dist.is_initialized()
