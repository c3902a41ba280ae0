import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from outcrop.coders.weights import fold, load_coder, save_coder
from outcrop.errors import CoderError
from tests.coders.test_stack import READS, Read, stack


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("reads", READS)
@torch.no_grad()
def test_a_folded_coder_takes_raw_activations(reads: Read, layers: int) -> None:
    coder = stack(reads, layers).double()
    mean, scale = torch.randn(6, dtype=torch.double) * 5, 3.7
    raw = mean + scale * torch.randn(200, 6, dtype=torch.double)
    expected = mean + scale * coder((raw - mean) / scale)
    folded = fold(coder, mean, scale).double()
    error = (folded(raw) - expected).norm() / expected.norm()
    assert error < 1e-5
    codes, raw_codes = coder.encode((raw - mean) / scale), folded.encode(raw)
    assert (codes.indices == raw_codes.indices).double().mean() > 0.99
    torch.testing.assert_close(folded.decoder_rows(), coder.decoder_rows(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("reads", READS)
@torch.no_grad()
def test_a_saved_coder_comes_back(tmp_path: Path, reads: Read, layers: int) -> None:
    coder, x = stack(reads, layers), torch.randn(100, 6)
    save_coder(coder, tmp_path, max_norm=12.5)
    loaded, max_norm = load_coder(tmp_path)
    assert max_norm == 12.5
    torch.testing.assert_close(loaded(x), coder(x))


@pytest.mark.parametrize("reads", READS)
@torch.no_grad()
def test_a_single_layer_is_written_as_sparsify_reads_it(tmp_path: Path, reads: Read) -> None:
    """sparsify: pre = (x − b_dec) Wᵀ + b, y = codes · W_dec + b_dec."""
    coder, x = stack(reads, layers=1), torch.randn(50, 6)
    save_coder(coder, tmp_path, max_norm=None)
    config, tensors = json.loads((tmp_path / "cfg.json").read_text()), load_file(tmp_path / "sae.safetensors")
    assert set(tensors) == {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
    pre = torch.relu((x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"])
    mask = torch.zeros_like(pre).scatter(1, pre.topk(config["k"]).indices, 1.0)
    torch.testing.assert_close((pre * mask) @ tensors["W_dec"] + tensors["b_dec"], coder(x))


def test_a_coder_of_sparsify_is_read(tmp_path: Path) -> None:
    save_coder(stack("residual", layers=1), tmp_path, max_norm=None)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["outcrop"]
    config |= {"num_latents": 0, "expansion_factor": 2}
    tensors = load_file(tmp_path / "sae.safetensors")
    tensors = {n: t[:12] if n != "b_dec" else t for n, t in tensors.items()}
    tensors = {n: torch.cat([t, t])[:12] if n != "b_dec" else t for n, t in tensors.items()}
    save_file(tensors, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    loaded, max_norm = load_coder(tmp_path)
    assert (loaded.n_latents, loaded.n_layers, max_norm) == (12, 1, None)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match="cannot be read as a coder"):
        load_coder(tmp_path)
    save_coder(stack(layers=1), tmp_path, max_norm=None)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"skip_connection": True}))
    with pytest.raises(CoderError, match="skip_connection"):
        load_coder(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"num_latents": 9}))
    with pytest.raises(CoderError, match="does not fit"):
        load_coder(tmp_path)
    (tmp_path / "sae.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CoderError, match="cannot be read as a coder"):
        load_coder(tmp_path)
