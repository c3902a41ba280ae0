"""A coder at its place in the language model, and what it does there when it is attached.

splice   y ← ŷ(codes)
edit     y ← ŷ(edited codes) + (y − ŷ(codes)), so that only what was edited changes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from outcrop.coders.stack import SparseStack
from outcrop.errors import CoderError
from outcrop.model.hooks import replaced
from outcrop.model.load import LanguageModel
from outcrop.types import CoderKey, SparseLatents, within_norm

Change = Callable[[Float[Tensor, "n d_in"], Float[Tensor, "n d_out"]], Float[Tensor, "n d_out"]]


@dataclass(frozen=True)
class PlacedCoder:
    """A coder that takes raw activations, the place it was made for, and which tokens it excludes."""

    key: CoderKey
    coder: SparseStack
    max_norm: float | None = None  # tokens of a larger norm at the source are attention sinks

    @cached_property
    def hash(self) -> str:
        """Of everything that its codes depend on, as it was when first asked; 16 hexadecimal digits."""
        return self._digest(str(self.key))

    @cached_property
    def hash_of_content(self) -> str:
        """The same for coders of any name and seed at one place."""
        return self._digest(f"{self.key.source}->{self.key.target}")

    def _digest(self, name: str) -> str:
        coder = self.coder
        settings = [name, self.max_norm, asdict(coder.architecture), coder.reads, coder.read_scale]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for _, tensor in sorted(coder.state_dict().items()):
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def require_widths(self, source: int, target: int) -> None:
        """CoderError unless the coder reads and predicts activations of these widths."""
        key, coder = self.key, self.coder
        if coder.transcodes != key.transcodes:
            kind = "a transcoder" if coder.transcodes else "an autoencoder"
            raise CoderError(
                f"the coder is {kind}, but it shall read {key.source} and predict {key.target}; "
                "name its hookpoint, for a transcoder as SOURCE->TARGET"
            )
        for what, own, hookpoint, width in (
            ("reads", coder.d_in, key.source, source),
            ("predicts", coder.d_out, key.target, target),
        ):
            if own != width:
                raise CoderError(
                    f"the coder {what} activations {own} wide, but {hookpoint} is {width} wide; "
                    "name the hookpoint and the model that it was trained on"
                )

    @contextmanager
    def attach(
        self,
        model: LanguageModel,
        *,
        ablate: Sequence[int] = (),
        steer: Mapping[int, float] | None = None,
        keep_error: bool = True,
        where: Bool[Tensor, "b t"] | None = None,
    ) -> Iterator[None]:
        """Within, the model runs on what the coder makes of the activations at its target.

        Without edits, the reconstruction takes the target's place. `ablate` silences latents and `steer` sets
        latents to an activation on every token; both leave the rest as it is, the coder's error included, unless
        `keep_error` is False. `where` bounds all of it to some positions; attention sinks are always left alone.
        Raises CoderError for a latent that the coder does not have and where `where` is not of the tokens' shape;
        a generation, whose passes differ in shape, takes none.
        """
        self.coder.to(model.device)
        edits = {**dict.fromkeys(ablate, 0.0), **(steer or {})}
        unknown = [latent for latent in edits if not 0 <= latent < self.coder.n_latents]
        if unknown:
            raise CoderError(f"there is no latent {unknown[0]}; the coder has {self.coder.n_latents:,}")

        def change(x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
            if not edits:
                return self.coder(x)
            latents = self.coder.encode(x)
            changed = self.coder.decode(_edited(latents, edits), x)
            return changed + (y - self.coder.decode(latents, x)) if keep_error else changed

        with spliced(model, self, change, where):
            yield


@contextmanager
def spliced(
    model: LanguageModel, placed: PlacedCoder, change: Change, where: Bool[Tensor, "b t"] | None = None
) -> Iterator[None]:
    """Within, `change(source, target)` takes the target's place, at chosen positions that are no sinks."""
    source: list[Tensor] = []  # of the forward pass that is under way

    def note(x: Float[Tensor, "b t d_in"]) -> Float[Tensor, "b t d_in"]:
        source[:] = [x]
        return x

    def put(y: Float[Tensor, "b t d_out"]) -> Float[Tensor, "b t d_out"]:
        x = source[0] if placed.coder.transcodes else y
        chosen = within_norm(x, placed.max_norm)
        if where is not None:
            if where.shape != chosen.shape or where.dtype != torch.bool:
                raise CoderError(
                    f"`where` is {where.dtype} {[*where.shape]}; the model runs on tokens of shape {[*chosen.shape]}, "
                    "and a bool for each is expected"
                )
            chosen = chosen & where.to(chosen.device)
        y = y.clone()
        y[chosen] = change(x[chosen].float(), y[chosen].float()).to(y.dtype)
        return y

    with ExitStack() as stack:
        if placed.coder.transcodes:
            stack.enter_context(replaced(model, placed.key.source, note))
        stack.enter_context(replaced(model, placed.key.target, put))
        yield


def _edited(latents: SparseLatents, edits: Mapping[int, float]) -> SparseLatents:
    """The codes with some latents set to one value on every token; 0 removes them."""
    token = torch.repeat_interleave(latents.indptr.diff())
    keep = ~torch.isin(latents.indices, torch.tensor(list(edits), device=latents.indices.device))
    added = [(latent, value) for latent, value in edits.items() if value != 0]
    n = len(latents.indptr) - 1
    tokens = [token[keep], *(torch.arange(n, device=token.device) for _ in added)]
    indices = [latents.indices[keep], *(latents.indices.new_full((n,), latent) for latent, _ in added)]
    values = [latents.values[keep], *(latents.values.new_full((n,), value) for _, value in added)]
    order = torch.cat(tokens).argsort(stable=True)
    indptr = _starts(torch.cat(tokens), n)
    return SparseLatents(torch.cat(values)[order], torch.cat(indices)[order], indptr, latents.n_latents)


def _starts(tokens: Int64[Tensor, "nnz"], n: int) -> Int64[Tensor, "n_plus_1"]:
    indptr = torch.zeros(n + 1, dtype=torch.long, device=tokens.device)
    indptr[1:] = tokens.bincount(minlength=n).cumsum(0)
    return indptr
