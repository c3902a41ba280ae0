import pytest
import torch
from torch import Tensor

from outcrop.coders.stack import SparseStack
from outcrop.config import Read

READS: list[Read] = ["residual", "resnet", "parallel"]


def stack(reads: Read = "residual", layers: int = 3, k: int = 2) -> SparseStack:
    generator = torch.Generator().manual_seed(0)
    coder = SparseStack(6, 10, k, layers, reads, generator)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return coder


def by_hand(coder: SparseStack, x: Tensor) -> tuple[Tensor, list[dict[int, float]]]:
    """One token at a time, one latent at a time."""
    outputs, codes = [], []
    for token in x:
        reconstruction, fired = coder.decoder_bias.clone(), {}
        for number, layer in enumerate(coder.layers):
            read = {"residual": token - reconstruction, "resnet": token + reconstruction, "parallel": token}[
                coder.reads
            ]
            pre = torch.relu(layer.encoder @ read + layer.encoder_bias)
            for latent in pre.argsort(descending=True)[: coder.k].tolist():
                if pre[latent] > 0:
                    fired[number * coder.latents_per_layer + latent] = pre[latent].item()
                    reconstruction = reconstruction + pre[latent] * layer.decoder[latent]
        outputs.append(reconstruction)
        codes.append(fired)
    return torch.stack(outputs), codes


@pytest.mark.parametrize("reads", READS)
@torch.no_grad()
def test_the_stack_equals_the_computation_by_hand(reads: Read) -> None:
    coder, x = stack(reads), torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    outputs, codes = by_hand(coder, x)
    torch.testing.assert_close(coder(x), outputs)
    latents = coder.encode(x)
    assert latents.n_latents == 30
    for token, fired in enumerate(codes):
        part = slice(latents.indptr[token], latents.indptr[token + 1])
        got = dict(zip(latents.indices[part].tolist(), latents.values[part].tolist(), strict=True))
        assert got == pytest.approx(fired)


@pytest.mark.parametrize("reads", READS)
@torch.no_grad()
def test_decode_of_encode_is_forward(reads: Read) -> None:
    coder, x = stack(reads), torch.randn(50, 6)
    torch.testing.assert_close(coder.decode(coder.encode(x)), coder(x))


@torch.no_grad()
def test_a_zero_is_never_stored() -> None:
    coder, x = stack(k=10), torch.randn(40, 6)  # k = M selects zeros, too
    latents = coder.encode(x)
    assert (latents.values > 0).all()
    assert len(latents.values) < 40 * 30


@torch.no_grad()
def test_a_token_without_latents_is_decoded_to_the_bias() -> None:
    coder = stack()
    for layer in coder.layers:
        layer.encoder_bias.fill_(-100)
    x = torch.randn(4, 6)
    assert coder.encode(x).indptr.tolist() == [0] * 5
    torch.testing.assert_close(coder.decode(coder.encode(x)), coder.decoder_bias.expand(4, 6))


def test_parallel_layers_equal_one_wide_layer_with_k_per_block() -> None:
    coder, x = stack("parallel"), torch.randn(5, 6)
    wide = torch.cat([layer.encoder for layer in coder.layers])
    bias = torch.cat([layer.encoder_bias for layer in coder.layers])
    pre = torch.relu(x @ wide.T + bias).view(5, 3, 10)
    mask = torch.zeros_like(pre).scatter(2, pre.topk(2, dim=2).indices, 1.0)
    expected = (pre * mask).view(5, 30) @ coder.decoder_rows() + coder.decoder_bias
    torch.testing.assert_close(coder(x), expected)


def test_decoder_rows_start_with_unit_norm_and_come_back_to_it() -> None:
    coder = SparseStack(6, 10, 2, 2, "residual")
    torch.testing.assert_close(coder.decoder_rows().norm(dim=1), torch.ones(20))
    with torch.no_grad():
        coder.layers[1].decoder.mul_(3)
    coder.normalise_decoders()
    torch.testing.assert_close(coder.decoder_rows().norm(dim=1), torch.ones(20))
