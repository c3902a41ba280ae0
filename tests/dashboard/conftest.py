"""The made-up run of the report, for tables; and a tiny run with all that a page can show."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from outcrop import cli
from tests.llm_server import LLMServer
from tests.report.conftest import run, tables

__all__ = ["run", "tables"]


@pytest.fixture(scope="module")
def described(finished: Path, server: LLMServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With statistics, and explanations band by band."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("described") / "run"))
    explained = ["--fresh", "--judge", server.address, "--explain.explainers", "contrastive", "bands"]
    assert cli.main(["run", str(run), *explained]) == 0
    assert cli.main(["stats", str(run), "--neighbours", "jaccard", "decoder"]) == 0
    return run
