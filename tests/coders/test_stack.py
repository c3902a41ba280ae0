from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from outcrop.coders.codes import DenseCodes, SparseCodes
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture, Read, Selection
from outcrop.errors import ConfigError
from tests.coders import obvious

READS: list[Read] = ["residual", "resnet", "parallel"]
SELECTIONS: list[Selection] = ["topk", "batchtopk", "groupmax", "jumprelu", "relu"]
DENSE: dict[str, dict[str, Any]] = {
    "plain": {},
    "dense in": {"encoder_widths": (7, 5)},
    "dense out": {"decoder_widths": (5, 7)},
    "sandwich": {"encoder_widths": (9,), "decoder_widths": (4,)},
}


def stack(
    reads: Read = "residual", layers: int = 3, d_out: int | None = None, dtype: torch.dtype = torch.float32, **more: Any
) -> SparseStack:
    """A coder in training whose weights are as random as its first ones are orderly."""
    generator = torch.Generator().manual_seed(0)
    architecture = Architecture(**{"n_latents": 10, "k": 3, "layers": layers, "reads": reads, **more})
    coder = SparseStack(architecture, 6, d_out, generator)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return coder.to(dtype)


def tokens(n: int = 9, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dense", DENSE)
@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_output_codes_and_gradients_equal_the_obvious_computation(
    selection: Selection, reads: Read, dense: str
) -> None:
    coder, x = stack(reads, dtype=torch.double, selection=selection, **DENSE[dense]), tokens(dtype=torch.double)
    x.requires_grad_(True)
    output, codes = obvious.forward(coder, x)
    outputs = list(coder.run(x))
    torch.testing.assert_close(outputs[-1].reconstruction, output)
    for layer, expected in zip(outputs, codes, strict=True):
        assert isinstance(layer.codes, DenseCodes if selection == "relu" else SparseCodes)
        values, indices = layer.codes.padded()
        torch.testing.assert_close(torch.zeros_like(expected).scatter_add(1, indices, values), expected)
        assert layer.codes.count(10).tolist() == (expected > 0).sum(dim=0).tolist()
    weights = [w for name, w in coder.named_parameters() if "threshold" not in name]  # it learns by another gradient
    upstream = torch.randn(output.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad(outputs[-1].reconstruction, [x, *weights], upstream)
    theirs = torch.autograd.grad(output, [x, *weights], upstream)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("d_out", "reads", "skip"), [(4, "parallel", True), (6, "resnet", True), (6, "resnet", False)])
def test_a_transcoder_equals_the_obvious_computation(d_out: int, reads: Read, skip: bool) -> None:
    coder, x = stack(reads, d_out=d_out, dtype=torch.double, skip=skip), tokens(dtype=torch.double)
    output, _ = obvious.forward(coder, x)
    torch.testing.assert_close(coder(x), output)
    torch.testing.assert_close(coder.decode(coder.encode(x), x), output)


@pytest.mark.parametrize(
    ("reads", "d_out", "why"),
    [("residual", 6, "cannot read 'residual'"), ("residual", 4, "cannot read"), ("resnet", 4, "cannot read 'resnet'")],
)
def test_a_transcoder_that_would_subtract_what_it_does_not_read_is_refused(reads: Read, d_out: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        stack(reads, d_out=d_out)
    assert stack(reads, layers=1, d_out=d_out).reads == "parallel"


@pytest.mark.parametrize("selection", SELECTIONS)
def test_whether_a_coder_is_possible_is_known_for_every_selection(selection: Selection) -> None:
    SparseStack.require_possible(Architecture(n_latents=10, k=3, layers=2, selection=selection), 6)
    with pytest.raises(ConfigError, match="target of its own"):
        SparseStack.require_possible(Architecture(n_latents=10, k=3, selection=selection, skip=True), 6)


def test_an_autoencoder_with_a_skip_is_refused() -> None:
    with pytest.raises(ConfigError, match="target of its own"):
        stack(skip=True)


@pytest.mark.parametrize(("selection", "reads"), list(product(SELECTIONS, READS)))
@torch.no_grad()
def test_at_inference_encode_and_decode_are_forward(selection: Selection, reads: Read) -> None:
    coder, x = stack(reads, selection=selection), tokens(50)
    coder(x)  # BatchTopK learns its threshold
    coder.eval()
    latents = coder.encode(x)
    torch.testing.assert_close(coder.decode(latents), coder(x))
    assert (latents.values > 0).all() and latents.indptr[-1] == len(latents.values)
    for token in range(50):
        part = latents.indices[latents.indptr[token] : latents.indptr[token + 1]]
        assert len(set(part.tolist())) == len(part)


@pytest.mark.parametrize("lowered", [0.0, 4.0])
def test_relu_is_the_same_however_many_latents_fire(lowered: float) -> None:
    coder, x = stack(layers=1, dtype=torch.double, selection="relu", n_latents=100), tokens(200, torch.double)
    (layer,) = coder.layers
    with torch.no_grad():
        layer.encoder_bias -= lowered
    (output,) = coder.run(x)
    assert isinstance(output.codes, SparseCodes if lowered else DenseCodes)
    reconstruction, (activations,) = obvious.forward(coder, x)
    assert activations.any()
    ours, theirs = (
        torch.autograd.grad(total.pow(2).sum() + penalty, list(coder.parameters()))
        for total, penalty in (
            (output.reconstruction, output.codes.penalty),
            (reconstruction, activations.sum(dim=1).mean()),
        )
    )
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)


@torch.no_grad()
def test_jumprelu_and_relu_fire_alike_in_training_and_at_inference() -> None:
    for selection in ("jumprelu", "relu"):
        coder, x = stack(selection=selection), tokens(40)
        training = coder(x)
        torch.testing.assert_close(coder.eval()(x), training)


@torch.no_grad()
def test_the_learned_threshold_of_batchtopk_lets_k_latents_fire_on_average() -> None:
    coder = stack(layers=1, selection="batchtopk", k=2)
    generator = torch.Generator().manual_seed(3)
    for _ in range(300):
        coder(torch.randn(64, 6, generator=generator))
    latents = coder.eval().encode(torch.randn(20_000, 6, generator=generator))
    assert len(latents.values) / 20_000 == pytest.approx(2, abs=0.1)


@torch.no_grad()
def test_a_zero_is_never_stored() -> None:
    coder, x = stack(k=10), tokens(40)  # k = M selects zeros, too
    latents = coder.encode(x)
    assert (latents.values > 0).all()
    assert len(latents.values) < 40 * 30


@torch.no_grad()
def test_a_token_without_latents_is_decoded_to_the_bias() -> None:
    coder, x = stack(), tokens(4)
    for layer in coder.layers:
        layer.encoder_bias.fill_(-100)
    assert coder.encode(x).indptr.tolist() == [0] * 5
    torch.testing.assert_close(coder.decode(coder.encode(x)), coder.decoder_bias.expand(4, 6))


def test_parallel_layers_equal_one_wide_layer_with_k_per_block() -> None:
    coder, x = stack("parallel"), tokens(5)
    wide = torch.cat([layer.encoder for layer in coder.layers])
    bias = torch.cat([layer.encoder_bias for layer in coder.layers])
    pre = torch.relu(x @ wide.T + bias).view(5, 3, 10)
    mask = torch.zeros_like(pre).scatter(2, pre.topk(3, dim=2).indices, 1.0)
    expected = (pre * mask).view(5, 30) @ coder.decoder_rows() + coder.decoder_bias
    torch.testing.assert_close(coder(x), expected)


@pytest.mark.parametrize("reads", READS)
@torch.no_grad()
def test_at_the_start_the_layers_together_amount_to_no_more_than_x(reads: Read) -> None:
    coder = SparseStack(Architecture(n_latents=512, k=8, layers=4, reads=reads), 256)
    x = torch.randn(500, 256, generator=torch.Generator().manual_seed(1))
    assert coder(x).norm() < 1.1 * x.norm()  # four layers that each gave their part of x would give more


def test_decoder_rows_start_with_unit_norm_and_come_back_to_it() -> None:
    coder = SparseStack(Architecture(n_latents=10, k=2, layers=2), 6)
    torch.testing.assert_close(coder.decoder_rows().norm(dim=1), torch.ones(20))
    with torch.no_grad():
        coder.layers[1].decoder.mul_(3)
    coder.normalise_decoders()
    torch.testing.assert_close(coder.decoder_rows().norm(dim=1), torch.ones(20))


@torch.no_grad()
def test_the_row_of_a_latent_before_dense_layers_is_what_it_changes_at_its_mean() -> None:
    coder, x = stack(layers=1, **DENSE["sandwich"]), tokens(200)
    (output,) = coder.run(x)
    values, indices = output.codes.padded()
    mean = values[indices == 4].mean()
    (layer,) = coder.layers
    alone = torch.zeros(1, 10)
    nothing = obvious.decode(layer, alone)
    alone[0, 4] = mean
    torch.testing.assert_close(coder.decoder_rows()[4], (obvious.decode(layer, alone) - nothing)[0])


def test_a_split_budget_is_shared_by_the_layers() -> None:
    coder = stack(layers=3, n_latents=30, k=6, split=True)
    assert (coder.n_latents, coder.latents_per_layer) == (30, 10)
    assert len(coder.encode(tokens(1)).values) <= 6
    with pytest.raises(ConfigError, match="3 layers cannot split evenly"):
        stack(layers=3, n_latents=31, k=6, split=True)
