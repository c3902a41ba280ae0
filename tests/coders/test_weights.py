import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from outcrop.coders.folding import Scaling, fold
from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import find_coder, load_coder, save_coder
from outcrop.config import Read, Selection
from outcrop.errors import CoderError
from outcrop.types import CoderKey, Hookpoint
from tests.coders.test_stack import DENSE, READS, SELECTIONS, stack, tokens

SHAPES: dict[str, dict[str, Any]] = {
    **DENSE,
    "transcoder": {"d_out": 4, "skip": True},
    "square transcoder": {"d_out": 6, "skip": True},
    "matryoshka": {"matryoshka": (3, 6)},
}


def ready(reads: Read, layers: int, selection: Selection, dtype: torch.dtype, **shape: Any) -> SparseStack:
    """A coder at inference that has seen a batch; a transcoder reads x or x + ŷ."""
    if "d_out" in shape and (reads == "residual" or shape["d_out"] != 6):
        reads = "parallel"
    coder = stack(reads, layers, dtype=dtype, selection=selection, **shape)
    coder(tokens(64, dtype) + 0.3)  # other tokens, so that no activation of a test lies on a threshold
    return coder.eval().requires_grad_(False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("selection", "reads", "layers"), list(product(SELECTIONS, READS, [1, 3])))
@torch.no_grad()
def test_a_folded_coder_takes_raw_activations(selection: Selection, reads: Read, layers: int, shape: str) -> None:
    coder = ready(reads, layers, selection, torch.double, **SHAPES[shape])
    generator = torch.Generator().manual_seed(5)
    source = Scaling(torch.randn(6, dtype=torch.double, generator=generator) * 5, 3.7)
    target = Scaling(torch.randn(coder.d_out, dtype=torch.double, generator=generator) * 3, 0.6)
    target = target if coder.transcodes else source
    normalised = tokens(200, torch.double)
    raw = source.mean + source.scale * normalised
    expected = target.mean + target.scale * coder(normalised)
    folded = fold(coder, source, target)
    assert relative_error(folded(raw), expected) < 1e-5
    codes, raw_codes = coder.encode(normalised), folded.encode(raw)
    assert torch.equal(codes.indptr, raw_codes.indptr) and torch.equal(codes.indices, raw_codes.indices)
    again = fold(folded, source.inverse(), target.inverse())
    assert relative_error(again(normalised), coder(normalised)) < 1e-5


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("selection", "layers"), list(product(SELECTIONS, [1, 2])))
@torch.no_grad()
def test_a_saved_coder_comes_back(tmp_path: Path, selection: Selection, layers: int, shape: str) -> None:
    coder, x = ready("resnet", layers, selection, torch.float32, **SHAPES[shape]), tokens(100)
    save_coder(coder, tmp_path, max_norm=12.5)
    loaded, max_norm = load_coder(tmp_path)
    assert max_norm == 12.5
    torch.testing.assert_close(loaded(x), coder(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded.decoder_rows(), coder.decoder_rows())


@pytest.mark.parametrize("reads", READS)
@torch.no_grad()
def test_a_single_layer_is_written_as_sparsify_reads_it(tmp_path: Path, reads: Read) -> None:
    """sparsify: pre = (x − b_dec) Wᵀ + b, y = codes · W_dec + b_dec."""
    coder, x = stack(reads, layers=1), tokens(50)
    save_coder(coder, tmp_path, max_norm=None)
    config, tensors = json.loads((tmp_path / "cfg.json").read_text()), load_file(tmp_path / "sae.safetensors")
    assert set(tensors) == {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
    torch.testing.assert_close(by_sparsify(tensors, x, config["k"]), coder(x))


def by_sparsify(tensors: dict[str, Tensor], x: Tensor, k: int) -> Tensor:
    pre = torch.relu((x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"])
    mask = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
    return (pre * mask) @ tensors["W_dec"] + tensors["b_dec"]


def test_a_coder_of_sparsify_is_read(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (12, 6), "encoder.bias": (12,), "W_dec": (12, 6), "b_dec": (6,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    config = {"activation": "topk", "k": 3, "num_latents": 0, "expansion_factor": 2, "d_in": 6}
    save_file(tensors, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    loaded, max_norm = load_coder(tmp_path)
    assert (loaded.n_latents, loaded.n_layers, max_norm) == (12, 1, None)
    torch.testing.assert_close(loaded(tokens()), by_sparsify(tensors, tokens(), 3))


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match="cannot be read as a coder"):
        load_coder(tmp_path)
    save_coder(stack(layers=1), tmp_path, max_norm=None)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["outcrop"]
    for change, why in [
        ({"activation": "softmax"}, "softmax"),
        ({"num_latents": 9}, "does not fit"),
        ({"num_latents": 2}, r"coder\.k is 3"),
        ({"num_latents": 0, "expansion_factor": 0}, "no number of latents"),
    ]:
        (tmp_path / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(CoderError, match=why):
            load_coder(tmp_path)
    (tmp_path / "cfg.json").write_text("[]")
    with pytest.raises(CoderError, match="cannot be read as a coder"):
        load_coder(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    (tmp_path / "sae.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CoderError, match="cannot be read as a coder"):
        load_coder(tmp_path)


def test_a_coder_is_found_alone_or_by_the_name_of_its_hookpoint(tmp_path: Path) -> None:
    point = Hookpoint("model.layers.3.mlp")
    key = CoderKey("topk", point, point, 0)
    named = tmp_path / "layers.3.mlp"
    named.mkdir()
    save_coder(stack(layers=1), named, None)
    assert find_coder(str(tmp_path), key, alone=False) == named
    assert find_coder(str(named), key, alone=True) == named
    with pytest.raises(CoderError, match=r"no coder for model\.layers\.3\.mlp"):
        find_coder(str(named), key, alone=False)
    with pytest.raises(CoderError, match="there is no directory"):
        find_coder(str(tmp_path / "nothing"), key, alone=True)


@pytest.mark.parametrize(
    ("folder", "source", "target"),
    [
        ("layers.3.mlp", "model.layers.3.mlp:input", "model.layers.3.mlp"),
        ("layers.3", "gpt_neox.layers.3", "gpt_neox.layers.3"),
        ("h.3.mlp", "transformer.h.3.mlp", "transformer.h.3.mlp"),
    ],
)
def test_folders_are_found_as_sparsify_names_them(folder: str, source: str, target: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "sae.safetensors").touch()
    key = CoderKey("topk", Hookpoint.parse(source), Hookpoint.parse(target), 0)
    assert find_coder(str(tmp_path), key, alone=False) == tmp_path / folder
