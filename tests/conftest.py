"""What several tests share: the tiny model and text, made once per session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the hub
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and their tensors are small

from outcrop import cli
from outcrop.config import ModelConfig, TextConfig
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel, load_model
from outcrop.model.text import read_documents
from outcrop.model.tokens import deal
from tests.llm_server import LLMServer
from tests.tiny import write_corpus, write_model
from tests.tiny_run import arguments, write_inputs


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "also photograph every page of this run, such as runs/demo, into RUN-pictures"
    parser.addoption("--photograph", type=Path, metavar="RUN", help=told)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus.jsonl")


@pytest.fixture(scope="session")
def model(model_directory: Path) -> LanguageModel:
    return load_model(ModelConfig(name=str(model_directory), dtype="float32"))


@pytest.fixture(scope="session")
def corpora(model: LanguageModel, text_file: Path) -> dict[str, Corpus]:
    """Held-out, cache and train parts."""
    config = TextConfig(path=str(text_file), context_tokens=48, max_document_tokens=80)
    return deal(read_documents(config), model.tokenizer, config, {"held_out": 500, "cache": 3_000, "train": 4_000})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def server() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, Path], server: LLMServer) -> Path:
    """A finished run; not to be changed."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(["run", "--out", str(path), *arguments(*inputs, server.address)]) == 0
    return path


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(finished, tmp_path / "run")
