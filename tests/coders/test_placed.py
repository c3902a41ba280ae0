from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture
from outcrop.errors import CoderError
from outcrop.model.hooks import capture
from outcrop.model.load import LanguageModel
from outcrop.types import CoderKey, Hookpoint

SOURCE, TARGET = Hookpoint("model.layers.0.mlp", "input"), Hookpoint("model.layers.0.mlp")
AFTER = Hookpoint("model.layers.1", "input")
TOKENS = torch.arange(1, 13).view(2, 6)


def placed(target: Hookpoint = SOURCE, max_norm: float | None = None, **more: bool) -> PlacedCoder:
    architecture = Architecture(n_latents=64, k=6, **more)
    d_out = None if target == SOURCE else 32
    coder = SparseStack(architecture, 32, d_out, torch.Generator().manual_seed(0))
    return PlacedCoder(CoderKey("t", SOURCE, target, 0), coder.eval().requires_grad_(False), max_norm)


def at(model: LanguageModel, *hookpoints: Hookpoint) -> list[Tensor]:
    seen = capture(model, TOKENS, hookpoints)
    return [seen[hookpoint].clone() for hookpoint in hookpoints]


def flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def test_attached_the_reconstruction_takes_the_place_of_the_target(model: LanguageModel) -> None:
    one = placed()
    (x,) = at(model, SOURCE)
    with one.attach(model):
        (spliced,) = at(model, SOURCE)
    torch.testing.assert_close(flat(spliced), one.coder(flat(x)))
    torch.testing.assert_close(at(model, SOURCE)[0], x)


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_writes_at_its_target_what_it_makes_of_its_source(model: LanguageModel, skip: bool) -> None:
    one = placed(TARGET, skip=skip)
    x, y = at(model, SOURCE, TARGET)
    with one.attach(model):
        same_x, spliced = at(model, SOURCE, TARGET)
    torch.testing.assert_close(same_x, x)
    torch.testing.assert_close(flat(spliced), one.coder(flat(x)))
    assert not torch.allclose(spliced, y)


def fired(one: PlacedCoder, x: Tensor) -> Sequence[int]:
    return one.coder.encode(x).indices.unique().tolist()


@pytest.mark.parametrize("target", [SOURCE, TARGET])
def test_ablating_takes_a_latents_share_away_and_nothing_else(model: LanguageModel, target: Hookpoint) -> None:
    one = placed(target)
    x, y = (flat(t) for t in at(model, SOURCE, TARGET)) if target == TARGET else (flat(at(model, SOURCE)[0]),) * 2
    latent = fired(one, x)[0]
    latents = one.coder.encode(x)
    dense = torch.zeros(len(x), 64)
    for token in range(len(x)):
        part = slice(latents.indptr[token], latents.indptr[token + 1])
        dense[token, latents.indices[part]] = latents.values[part]
    with one.attach(model, ablate=[latent]):
        (changed,) = at(model, target)
    share = dense[:, latent : latent + 1] * one.coder.decoder_rows()[latent]
    torch.testing.assert_close(flat(changed), y - share, atol=1e-5, rtol=1e-5)
    with one.attach(model, ablate=[latent], keep_error=False):
        (changed,) = at(model, target)
    torch.testing.assert_close(flat(changed), one.coder(x) - share, atol=1e-5, rtol=1e-5)


def test_steering_sets_a_latent_on_every_token(model: LanguageModel) -> None:
    one = placed()
    (x,) = at(model, SOURCE)
    with one.attach(model, steer={5: 2.5}):
        (steered,) = at(model, SOURCE)
    codes = one.coder.encode(flat(x))
    token = torch.repeat_interleave(codes.indptr.diff())
    own = torch.zeros(12).index_add(0, token[codes.indices == 5], codes.values[codes.indices == 5])
    torch.testing.assert_close(flat(steered), flat(x) + (2.5 - own)[:, None] * one.coder.decoder_rows()[5])


def test_only_chosen_positions_that_are_no_sinks_are_changed(model: LanguageModel) -> None:
    (x,) = at(model, SOURCE)
    where = torch.zeros(2, 6, dtype=torch.bool)
    where[0, 2:4] = where[1, 5] = True
    norm = float(x[0, 2].norm())
    one = placed(max_norm=norm * 0.999)
    with one.attach(model, where=where):
        (spliced,) = at(model, SOURCE)
    changed = (spliced != x).any(dim=-1)
    expected = where & (x.norm(dim=-1) <= norm * 0.999)
    assert torch.equal(changed, expected) and not changed[0, 2]


def test_an_unknown_latent_is_refused(model: LanguageModel) -> None:
    with pytest.raises(CoderError, match="no latent 64; the coder has 64"), placed().attach(model, ablate=[64]):
        pass
