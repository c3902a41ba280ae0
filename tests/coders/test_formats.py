"""Coders that other libraries made, and ours as other libraries read them; the scripts in `peers` made the files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from outcrop.coders import weights
from outcrop.coders.formats import READERS
from outcrop.coders.formats.dictionary import Dictionary
from outcrop.coders.formats.saelens import write_saelens
from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import find_coder, load_coder, save_coder, write_sparsify
from outcrop.errors import CoderError
from outcrop.types import CoderKey, Hookpoint, SparseLatents
from tests.coders.peers import ours
from tests.coders.test_stack import stack

DATA = Path(__file__).parent / "peers" / "data"
THEIRS = sorted(path.parent.relative_to(DATA).as_posix() for path in DATA.rglob("outputs.safetensors"))


@pytest.mark.parametrize("kind", THEIRS)
def test_a_coder_of_another_library_does_what_it_does_there(kind: str) -> None:
    coder, max_norm = load_coder(DATA / kind)
    assert max_norm is None
    assert_same(coder, load_file(DATA / kind / "outputs.safetensors"))


@pytest.mark.parametrize("kind", ours.CODERS)
def test_a_coder_of_ours_does_what_another_library_makes_of_it(kind: str, tmp_path: Path) -> None:
    """The files that the library read are the files that are written today."""
    write, settings = ours.CODERS[kind]
    coder = ours.coder(**settings)
    library, _, _ = kind.partition("_")
    assert_same(coder, load_file(ours.DATA / kind / f"outputs_{library}.safetensors"))
    write(coder, tmp_path)
    assert_same(load_coder(tmp_path)[0], load_file(ours.DATA / kind / f"outputs_{library}.safetensors"))
    assert json.loads((tmp_path / "cfg.json").read_text()) == json.loads((ours.DATA / kind / "cfg.json").read_text())
    [name] = {path.name for path in tmp_path.iterdir()} - {"cfg.json"}
    written, read = load_file(tmp_path / name), load_file(ours.DATA / kind / name)
    assert set(written) == set(read)
    for tensor in written:
        torch.testing.assert_close(written[tensor], read[tensor])


def assert_same(coder: SparseStack, outputs: dict[str, Tensor]) -> None:
    """Codes and reconstructions agree to 1e-5 of the largest."""
    x, codes, output = outputs["x"], outputs["codes"], outputs["output"]
    assert (codes > 0).any() and (codes == 0).any()
    latents = coder.encode(x)
    assert error(dense(latents), codes) < 1e-5
    assert error(coder(x), output) < 1e-5
    assert error(coder.decode(latents, x), output) < 1e-5


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def dense(latents: SparseLatents) -> Tensor:
    tokens = torch.repeat_interleave(latents.indptr.diff())
    codes = torch.zeros(len(latents.indptr) - 1, latents.n_latents)
    return codes.index_put((tokens, latents.indices), latents.values)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("gemma_scope/layer_0/width_4k/average_l0_6", False),
        ("dictionary_learning/AutoEncoderTopK", False),
        ("dictionary_learning/GatedAutoEncoder", False),
        ("saelens/standard", True),
        ("sparsify/topk", True),
    ],
)
def test_whether_a_coder_transcodes_can_be_said_where_its_files_do_not(kind: str, told: bool) -> None:
    coder, _ = load_coder(DATA / kind, transcodes=True)
    assert coder.transcodes is not told
    assert_same(coder, load_file(DATA / kind / "outputs.safetensors"))


def test_every_layout_is_among_the_files_that_are_read() -> None:
    assert {path.name for kind in THEIRS for path in (DATA / kind).iterdir()} >= set(READERS)


def test_matryoshka_prefixes_are_kept() -> None:
    kinds = ["saelens/matryoshka_batchtopk", "saelens/matryoshka_batchtopk_checkpoint"]
    for kind in [*kinds, "dictionary_learning/MatryoshkaBatchTopKSAE"]:
        assert load_coder(DATA / kind)[0].architecture.matryoshka == (6, 12)


def test_decoder_rows_keep_their_norm() -> None:
    rows = load_file(DATA / "saelens" / "standard" / "sae_weights.safetensors")["W_dec"]
    assert torch.equal(load_coder(DATA / "saelens" / "standard")[0].decoder_rows(), rows)
    assert rows.norm(dim=1).std() > 0.1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"architecture": "matching_pursuit"}, "'matching_pursuit'.* can be read: standard"),
        ({"architecture": "temporal"}, "temporal"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations 'layer_norm'"),
        ({"normalize_activations": "expected_average_only_in"}, "neither folded .* nor in activation_scaler.json"),
        ({"activation_fn_str": "tanh-relu"}, "activation function 'tanh-relu'"),
        ({"d_sae": 12}, "does not fit"),
        ({"architecture": "jumprelu"}, "does not fit its configuration: 'threshold'"),
        ({"architecture": "topk"}, "does not fit its configuration"),
        ({"architecture": "topk", "k": 25}, r"a coder that cannot be: coder\.k is 25"),
    ],
)
def test_what_no_coder_of_ours_can_be_is_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    directory = changed("saelens/standard", tmp_path, **change)
    with pytest.raises(CoderError, match=why):
        load_coder(directory)


def changed(kind: str, tmp_path: Path, **settings: Any) -> Path:
    directory = shutil.copytree(DATA / kind, tmp_path / "coder")
    config = json.loads((directory / "cfg.json").read_text())
    (directory / "cfg.json").write_text(json.dumps({**config, **settings}))
    return directory


def test_an_older_configuration_of_saelens_is_read(tmp_path: Path) -> None:
    """Before version 6, a TopK coder was a standard one with an activation function of its own."""
    directory = changed("saelens/topk", tmp_path)
    config: dict[str, Any] = {"d_in": 8, "d_sae": 24, "apply_b_dec_to_input": False, "normalize_activations": None}
    config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "hook_point": "blocks.0.hook_resid_post"}
    (directory / "cfg.json").write_text(json.dumps(config))
    assert_same(load_coder(directory)[0], load_file(directory / "outputs.safetensors"))


def test_tensors_that_nobody_asked_for_are_refused(tmp_path: Path) -> None:
    directory = changed("saelens/standard", tmp_path)
    tensors = load_file(directory / "sae_weights.safetensors")
    save_file({**tensors, "scaling_factor": torch.ones(24)}, directory / "sae_weights.safetensors")
    assert_same(load_coder(directory)[0], load_file(directory / "outputs.safetensors"))
    save_file({**tensors, "scaling_factor": torch.full((24,), 2.0)}, directory / "sae_weights.safetensors")
    with pytest.raises(CoderError, match="finetuning scaling factor other than 1"):
        load_coder(directory)
    save_file({**tensors, "W_out": torch.ones(24)}, directory / "sae_weights.safetensors")
    with pytest.raises(CoderError, match="hold W_out, which SAELens's standard coder does not have"):
        load_coder(directory)


def test_coders_over_several_blocks_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.ones((4, 8, 24)), W_dec=np.ones((24, 4, 8)), b_enc=np.ones(24))
    with pytest.raises(CoderError, match="a coder over several blocks"):
        load_coder(tmp_path)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"trainer": {"dict_class": "IdentityDict"}}, "'IdentityDict'.* can be read: AutoEncoder"),
        ({}, "class None"),
        ({"trainer": {"dict_class": "AutoEncoder"}}, "does not fit its configuration: 'bias'"),
    ],
)
def test_a_class_of_dictionary_learning_that_is_none_of_ours_is_refused(
    tmp_path: Path, config: dict[str, Any], why: str
) -> None:
    directory = shutil.copytree(DATA / "dictionary_learning" / "AutoEncoderTopK", tmp_path / "coder")
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CoderError, match=why):
        load_coder(directory)


class Explosive:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code was run",)


def test_no_code_is_run_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = shutil.copytree(DATA / "dictionary_learning" / "AutoEncoderTopK", tmp_path / "pt")
    torch.save({"encoder.weight": Explosive()}, directory / "ae.pt")
    with pytest.raises(CoderError, match=r"cannot be read as a coder: ae\.pt"):
        load_coder(directory)
    np.savez(tmp_path / "params.npz", W_enc=np.array([Explosive()], dtype=object))
    with pytest.raises(CoderError, match=r"cannot be read as a coder: params\.npz"):
        load_coder(tmp_path)
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_said(tmp_path: Path, name: str) -> None:
    for config in ("cfg.json", "config.json"):
        (tmp_path / config).write_text('{"trainer": {"dict_class": "AutoEncoder"}, "architecture": "jump_relu"}')
    for damage in (b"", b"\0" * 20, b"PK\x03\x04" + b"\0" * 40):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(CoderError, match=r"cannot be read as a coder|architecture 'jump_relu'"):
            load_coder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "saelens", "sparsify"),
    [
        ({"layers": 2}, "has 2 sparse layer", "2 layer"),
        ({"encoder_widths": (7,)}, r"widths \(7,\) before", r"dense ones of widths \(7,\)"),
        ({"selection": "groupmax"}, "no autoencoders with the selection groupmax; it has relu, topk", None),
        ({"selection": "groupmax", "k": 5}, "groupmax", "24 latents are not 5 groups of equal size"),
        ({"d_out": 8}, "no transcoders with the selection topk; it has relu", None),
        ({"d_out": 12}, "topk", "from width 8 to another, 12"),
        ({"selection": "jumprelu"}, None, "selection is jumprelu"),
    ],
)
def test_what_a_layout_cannot_hold_is_not_written(
    tmp_path: Path, settings: dict[str, Any], saelens: str | None, sparsify: str | None
) -> None:
    coder = ours.coder(**settings)
    for why, write in ((saelens, write_saelens), (sparsify, write_sparsify)):
        if why is not None:
            with pytest.raises(CoderError, match=why):
                write(coder, tmp_path / "out")
            assert not list(tmp_path.rglob("*.json"))


@torch.no_grad()
def test_groups_that_sparsify_could_not_form_are_saved_in_our_own_layout(tmp_path: Path) -> None:
    coder = ours.coder(selection="groupmax", k=5)
    save_coder(coder, tmp_path, None)
    x = torch.randn(9, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(load_coder(tmp_path)[0](x), coder(x))


def test_sparsify_s_layout_can_be_written_without_anything_of_ours(tmp_path: Path) -> None:
    write_sparsify(ours.coder(), tmp_path / "out")
    assert "outcrop" not in json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert_same(
        load_coder(tmp_path / "out")[0], load_file(ours.DATA / "sparsify_residual/outputs_sparsify.safetensors")
    )


@pytest.mark.parametrize("kind", [kind for kind in THEIRS if "gemma" not in kind])
def test_a_coder_that_was_read_is_saved_as_ours_and_comes_back(kind: str, tmp_path: Path) -> None:
    """Also where a threshold is 0, whose logarithm is infinite."""
    save_coder(load_coder(DATA / kind)[0], tmp_path, max_norm=3.0)
    coder, max_norm = load_coder(tmp_path)
    assert max_norm == 3.0
    assert_same(coder, load_file(DATA / kind / "outputs.safetensors"))


def test_a_stack_is_no_dictionary() -> None:
    with pytest.raises(CoderError, match="3 sparse layer"):
        Dictionary.of(stack(layers=3))


def test_a_folder_within_a_repository_is_found_and_nothing_else_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(DATA / "gemma_scope")

    monkeypatch.setattr(weights, "snapshot_download", download)
    point = Hookpoint("model.layers.0")
    key = CoderKey("topk", point, point, 0)
    folder = "layer_0/width_4k/average_l0_6"
    found = find_coder(f"google/gemma-scope-2b-pt-res/{folder}", key, alone=True)
    assert found == DATA / "gemma_scope" / folder
    [(repository, files)] = asked
    assert repository == "google/gemma-scope-2b-pt-res"
    assert f"{folder}/params.npz" in files and f"{folder}/layers.0/sae.safetensors" in files
    assert not any("*" in file for file in files)
    with pytest.raises(CoderError, match=r"holds no coder for model\.layers\.0: expected sae\.safetensors or"):
        find_coder("google/gemma-scope-2b-pt-res/layer_1", key, alone=True)
    assert asked[-1][0] == "google/gemma-scope-2b-pt-res"
    with pytest.raises(CoderError, match="no coder"):
        find_coder("gpt2", key, alone=True)
    assert asked[-1][0] == "gpt2" and "cfg.json" in asked[-1][1]
