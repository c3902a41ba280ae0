"""`outcrop convert`: a coder of ours in another library's layout comes back from there."""

from pathlib import Path

import pytest
import torch

from outcrop import cli
from outcrop.coders.weights import load_coder, save_coder
from tests.coders.test_stack import stack, tokens


@pytest.mark.parametrize("library", ["sparsify", "saelens"])
@torch.no_grad()
def test_a_converted_coder_gives_the_same_reconstructions(tmp_path: Path, library: str) -> None:
    coder = stack("parallel", layers=1)
    own, out = tmp_path / "own", tmp_path / "out"
    own.mkdir()
    save_coder(coder, own, max_norm=None)
    assert cli.main(["convert", str(own), "--to", library, "--out", str(out), "--model", "gpt2"]) == 0
    assert "outcrop" not in (out / "cfg.json").read_text()
    assert cli.main(["convert", str(own), "--to", library, "--out", str(out)]) == 2, "nothing is overwritten"
    torch.testing.assert_close(load_coder(out)[0](tokens()), coder(tokens()))


def test_what_another_library_cannot_hold_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_coder(stack(layers=2), tmp_path, max_norm=None)
    assert cli.main(["convert", str(tmp_path), "--to", "saelens", "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("outcrop: ") and "layers" in line and line.count("\n") == 1
