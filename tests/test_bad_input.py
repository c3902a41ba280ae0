"""Bad input, a damaged run directory and a full disk: one clear line, a non-zero exit, and nothing taken for done."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from outcrop import cli
from outcrop.coders.stack import SparseStack
from outcrop.coders.weights import save_coder
from outcrop.config import Architecture
from outcrop.run import RunDirectory
from outcrop.stages import ORDER
from tests.llm_server import LLMServer
from tests.tiny import write_corpus, write_model
from tests.tiny_run import arguments, files, tables

Inputs = tuple[Path, Path]
Refused = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused, and gives the one line that says why."""

    def call(*given: str) -> str:
        capfd.readouterr()
        assert cli.main(list(given)) == 2
        return line_of(capfd.readouterr().err)

    return call


def line_of(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("outcrop: ")]
    assert len(lines) == 1, stderr
    assert stderr.rstrip().endswith(lines[0]), "the error is the last thing that is said, and no longer than a line"
    assert "Traceback" not in stderr
    return lines[0]


def new(path: Path, given: list[str], *more: str) -> list[str]:
    return ["run", "--out", str(path / "new"), *given, *more]


# -- settings ------------------------------------------------------------------------------------------------


def test_an_unknown_verb_is_refused_with_the_verbs(refused: Refused) -> None:
    line = refused("rum")
    assert "'rum'" in line and "run, train, cache, explain, score, report" in line


def test_an_unknown_flag_is_refused_by_its_name(
    tmp_path: Path, inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(new(tmp_path, arguments(*inputs, None), "--coder.widht", "8"))
    assert ended.value.code == 2
    shown = capfd.readouterr().err
    assert "--coder.widht" in shown and "Traceback" not in shown


def test_more_active_than_existing_latents_are_refused(tmp_path: Path, inputs: Inputs, refused: Refused) -> None:
    line = refused(*new(tmp_path, arguments(*inputs, None, coder__k=65)))
    assert "coder.k is 65" in line and "coder.n-latents, which is 64" in line
    assert not (tmp_path / "new").exists()


def test_a_config_file_with_an_unknown_key_is_refused_by_that_key(
    tmp_path: Path, finished: Path, refused: Refused
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text((finished / "config.yaml").read_text() + "colour: red\n")
    line = refused("run", "--config", str(file), "--out", str(tmp_path / "new"))
    assert "there is no setting colour" in line and str(file) in line
    file.write_text((finished / "config.yaml").read_text().replace("n_latents: 64", "n_latent: 64"))
    line = refused("run", "--config", str(file), "--out", str(tmp_path / "new"))
    assert "there is no setting coder.n_latent (the nearest is coder.n_latents)" in line


@pytest.mark.parametrize("content", [None, "model: [", "- 1", ""], ids=["absent", "no YAML", "a list", "empty"])
def test_a_config_file_that_is_none_is_refused(content: str | None, tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    assert str(file) in refused("run", "--config", str(file), "--out", str(tmp_path / "new"))


def test_an_unknown_hookpoint_is_refused_with_the_nearest_before_any_work(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    line = refused(*new(tmp_path, arguments(*inputs, server.address), "--hookpoints", "model.layer.1"))
    assert "'model.layer.1'" in line and "model.layers.1" in line
    assert not list((tmp_path / "new").glob("tokens/*"))


@pytest.mark.parametrize("hookpoint", ["model", "model.rotary_emb"])
def test_a_hookpoint_without_a_vector_for_each_token_is_refused_before_any_work(
    hookpoint: str, tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    line = refused(*new(tmp_path, arguments(*inputs, server.address), "--hookpoints", hookpoint))
    assert f"{hookpoint} does not carry one vector per token" in line
    assert not list((tmp_path / "new").glob("tokens/*"))


@pytest.mark.parametrize(
    ("hookpoint", "given"),
    [("model.layers.1", "--coder.skip"), ("model.layers.0->model.layers.1", "--coder.reads=residual")],
    ids=["an autoencoder with a skip", "a transcoder that reads what is left"],
)
def test_a_coder_that_cannot_be_at_its_place_is_refused_before_any_work(
    hookpoint: str, given: str, tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    refused(*new(tmp_path, arguments(*inputs, server.address), "--hookpoints", hookpoint, given))
    assert not list((tmp_path / "new").glob("tokens/*"))


def test_settings_that_turn_out_to_be_impossible_do_not_stay_in_the_directory(
    run: Path, tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    refused(*new(tmp_path, arguments(*inputs, server.address), "--coder.skip"))
    assert not (tmp_path / "new" / "config.yaml").exists()
    before = (run / "config.yaml").read_bytes()
    refused("run", str(run), "--hookpoints", "model.layer.1", "--fresh")
    assert (run / "config.yaml").read_bytes() == before


def test_a_k_to_start_from_that_exceeds_the_latents_is_refused(
    tmp_path: Path, inputs: Inputs, refused: Refused
) -> None:
    assert "train.k-start is 65" in refused(*new(tmp_path, arguments(*inputs, None, train__k_start=65)))


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = refused(*new(tmp_path, arguments(*inputs, server.address, train__track="wandb")))
    assert "pip install wandb" in line
    assert not list((tmp_path / "new").glob("tokens/*"))


def test_an_embedder_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    line = refused(*new(tmp_path, arguments(*inputs, server.address, examples__embedder=tmp_path / "none")))
    assert f"there is no directory {tmp_path / 'none'}" in line
    assert not list((tmp_path / "new").glob("tokens/*"))


def test_a_run_without_a_judge_is_refused_before_any_work(tmp_path: Path, inputs: Inputs, refused: Refused) -> None:
    assert "--judge" in refused(*new(tmp_path, arguments(*inputs, None)))
    assert not (tmp_path / "new" / "tokens").exists()


def test_a_judge_that_does_not_answer_is_refused_by_its_address(
    run: Path, tmp_path: Path, inputs: Inputs, refused: Refused
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    RunDirectory(run).unmark("explain", "score", "report")
    assert address in refused("run", "--out", str(run), "--judge", address, "--judge.attempts", "1")
    assert address in refused(*new(tmp_path, arguments(*inputs, address, judge__attempts=1)))
    assert not (tmp_path / "new" / "tokens").exists(), "it is told before any work"


def test_an_address_without_its_scheme_is_refused(tmp_path: Path, inputs: Inputs, refused: Refused) -> None:
    assert "write http://localhost:8101/v1" in refused(*new(tmp_path, arguments(*inputs, "localhost:8101/v1")))


def test_a_model_that_the_judge_does_not_serve_is_refused_with_those_that_it_serves(
    run: Path, refused: Refused
) -> None:
    line = refused("run", "--out", str(run), "--judge.model", "huge-judge")
    assert "huge-judge" in line and "small-judge" in line


def test_a_model_that_is_not_there_is_refused(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    assert "nowhere" in refused(*new(tmp_path, arguments(tmp_path / "nowhere", inputs[1], server.address)))


# -- text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
def test_an_empty_text_is_refused(
    name: str, tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    text = tmp_path / name
    text.write_text("\n\n")
    line = refused(*new(tmp_path, arguments(inputs[0], text, server.address)))
    assert f"{text} holds 0 eligible tokens" in line


def test_a_text_that_is_too_short_is_refused_with_what_it_holds(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    text = write_corpus(tmp_path / "short.jsonl", n_documents=20)
    line = refused(*new(tmp_path, arguments(inputs[0], text, server.address)))
    assert "eligible tokens" in line and "10,500 are wanted (held_out 500, train 4,000, cache 6,000)" in line


def test_a_missing_column_is_refused_with_those_that_there_are(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    line = refused(*new(tmp_path, arguments(*inputs, server.address, text__column="body")))
    assert "'body'" in line and "'text'" in line


def test_a_text_that_is_not_there_or_of_another_kind_is_refused(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    line = refused(*new(tmp_path, arguments(inputs[0], tmp_path / "no.jsonl", server.address)))
    assert str(tmp_path / "no.jsonl") in line
    other = tmp_path / "text.docx"
    other.write_bytes(b"PK")
    assert ".parquet" in refused(*new(tmp_path, arguments(inputs[0], other, server.address)))


# -- activations and coders ----------------------------------------------------------------------------------


def test_activations_that_are_not_numbers_are_refused_by_hookpoint_and_batch(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    model = write_model(tmp_path / "model")
    weights = load_tensors(model / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_tensors(weights, model / "model.safetensors", metadata={"format": "pt"})
    line = refused(*new(tmp_path, arguments(model, inputs[1], server.address)))
    assert "model.layers.1 gave NaN or infinite activations" in line and "batch of contexts" in line
    assert list(RunDirectory(tmp_path / "new").marks()) == ["tokens"]


def test_a_coder_that_is_none_is_refused_before_any_work(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    line = refused(*new(tmp_path, arguments(*inputs, server.address, coder=inputs[0])))
    assert str(inputs[0]) in line and "model.layers.0" in line and "expected sae.safetensors" in line
    assert not list((tmp_path / "new").glob("tokens/*"))


def test_a_coder_of_another_width_is_refused_with_both_widths(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    for name in ("layers.0", "layers.1"):
        (tmp_path / "coders" / name).mkdir(parents=True)
        stack = SparseStack(Architecture(n_latents=64, k=4), 24, generator=torch.Generator().manual_seed(0))
        save_coder(stack, tmp_path / "coders" / name, None)
    line = refused(*new(tmp_path, arguments(*inputs, server.address, coder=tmp_path / "coders")))
    assert "24 wide" in line and "model.layers.0 is 32 wide" in line


def test_a_coder_whose_weights_are_truncated_is_refused(
    tmp_path: Path, inputs: Inputs, server: LLMServer, finished: Path, refused: Refused
) -> None:
    coders = shutil.copytree(finished / "coders", tmp_path / "coders")
    weights = next(coders.iterdir()) / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(weights.parent) in refused(*new(tmp_path, arguments(*inputs, server.address, coder=coders)))


# -- the run directory ---------------------------------------------------------------------------------------


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    line = refused("run", "--out", str(tmp_path), *arguments(*inputs, server.address))
    assert str(tmp_path) in line and "not a run directory" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_run_directory_is_refused(
    tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    (tmp_path / "new").write_text("mine")
    assert str(tmp_path / "new") in refused(*new(tmp_path, arguments(*inputs, server.address)))


def test_the_run_directory_of_another_model_is_refused_by_both_names(
    run: Path, tmp_path: Path, inputs: Inputs, server: LLMServer, refused: Refused
) -> None:
    other = write_model(tmp_path / "another", seed=1)
    line = refused("run", "--out", str(run), *arguments(other, inputs[1], server.address))
    assert f"model was {inputs[0]}, is {other}" in line


def test_a_run_directory_in_which_another_process_works_is_refused(run: Path, refused: Refused) -> None:
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process" in refused("report", str(run))
    assert cli.main(["report", str(run)]) == 0


def test_a_damaged_manifest_is_refused(run: Path, refused: Refused) -> None:
    for content in (b'{"version": 3, "sta', b'{"version": 3, "stages": []}', b"\xff\xfe"):
        (run / "manifest.json").write_bytes(content)
        assert "manifest.json" in refused("report", str(run))


def truncated(shard: Path, foreign: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def altered(shard: Path, foreign: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[20:40] = b"#" * 20
    shard.write_bytes(bytes(data))


def from_another_coder(shard: Path, foreign: Path) -> None:
    shutil.copy(foreign / shard.name, shard)


def over_another_text(shard: Path, foreign: Path) -> None:
    with safe_open(shard, framework="numpy") as file:
        metadata = json.loads(file.metadata()["outcrop"])
    metadata["made"]["text"] = "0" * 16
    save_file(load_file(shard), shard, {"outcrop": json.dumps(metadata)})


def removed(shard: Path, foreign: Path) -> None:
    shard.unlink()


DAMAGES = [truncated, altered, from_another_coder, over_another_text, removed]


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
def test_a_damaged_shard_is_refused_by_name_and_cached_again_when_it_is_removed(
    damage: Callable[[Path, Path], None], run: Path, finished: Path, refused: Refused
) -> None:
    first, second = sorted((run / "cache").iterdir())
    shard = first / "shard_00002.safetensors"
    damage(shard, second)
    RunDirectory(run).unmark("examples", "explain", "score", "report")
    assert str(first) in refused("run", "--out", str(run))
    shard.unlink(missing_ok=True)
    assert cli.main(["run", "--out", str(run)]) == 0
    assert files(run) == files(finished)


def test_results_of_another_schema_version_are_refused(run: Path, refused: Refused) -> None:
    with closing(sqlite3.connect(run / "results.sqlite")) as db:
        db.execute("PRAGMA user_version = 99")
    RunDirectory(run).unmark("report")
    line = refused("report", str(run))
    assert "results.sqlite has schema version 99, expected 7" in line


@pytest.mark.parametrize("name", ["results.sqlite", "replies.sqlite"])
def test_a_file_that_is_no_database_is_refused(name: str, run: Path, refused: Refused) -> None:
    for path in run.glob(f"{name}*"):
        path.unlink()
    (run / name).write_bytes(b"not a database, but long enough to be read as the header of one" * 20)
    RunDirectory(run).unmark("explain", "score", "report")
    assert name in refused("run", "--out", str(run))


# -- a full disk ---------------------------------------------------------------------------------------------


def with_files_of_at_most(n_bytes: int, given: list[str]) -> subprocess.CompletedProcess[str]:
    """The command in a process in which a file can hold no more, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return subprocess.run(
        [sys.executable, "-m", "outcrop", *given],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )


def largest(run: Path, pattern: str) -> int:
    return max(path.stat().st_size for path in run.glob(pattern))


FULL = [
    ("tokens", "tokens/*.safetensors"),
    ("train", "train/*/state.pt"),
    ("cache", "cache/*/shard_*.safetensors"),
    ("examples", "results.sqlite"),
    ("score", "replies.sqlite"),
    ("report", "report/index.html"),
]


@pytest.mark.parametrize(("stage", "pattern"), FULL, ids=[stage for stage, _ in FULL])
def test_a_full_disk_stops_a_stage_with_one_line_and_the_same_command_goes_on_when_there_is_room(
    stage: str, pattern: str, run: Path, finished: Path
) -> None:
    """No half-written file is taken for a whole one: what comes out is what comes of a run with room."""
    n_bytes = largest(finished, pattern) * 9 // 10
    directory, command = RunDirectory(run), ["run", "--out", str(run)]
    directory.unmark(*ORDER[ORDER.index(stage) :])
    if pattern.endswith(".sqlite"):
        directory.unmark("examples", "explain")
        for path in run.glob(f"{pattern}*"):
            path.unlink()
    ended = with_files_of_at_most(n_bytes, command)
    assert ended.returncode == 2, ended.stderr
    line = line_of(ended.stderr)
    assert "the same command goes on" in line
    mark = directory.marks().get(stage)
    assert mark is None or not mark.complete
    assert cli.main(command) == 0
    assert tables(run) == tables(finished)
    assert files(run) == files(finished)
    assert json.loads((run / "manifest.json").read_text())["stages"][stage]["complete"]
