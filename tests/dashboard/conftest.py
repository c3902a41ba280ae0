"""The made-up run of the report, for tables; and a tiny run with all that a page can show."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from outcrop import cli
from outcrop.model.corpus import load_vocabulary, save_vocabulary
from outcrop.results import Results
from outcrop.run import RunDirectory
from outcrop.types import Vocabulary
from tests.llm_server import LLMServer
from tests.report.conftest import run, tables

__all__ = ["run", "tables"]

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202eevil\u202c" + "y" * 100_000


@pytest.fixture(scope="module")
def described(finished: Path, server: LLMServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With statistics, and explanations band by band."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("described") / "run"))
    explained = ["--fresh", "--judge", server.address, "--explain.explainers", "contrastive", "bands"]
    assert cli.main(["run", str(run), *explained]) == 0
    assert cli.main(["stats", str(run), "--neighbours", "jaccard", "decoder"]) == 0
    return run


@pytest.fixture(scope="module")
def judged(finished: Path, server: LLMServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few latents, and all that a judge can be asked."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("judged") / "run"))
    explained = ["--fresh", "--judge", server.address, "--select.n-latents", "2", "--score.relate"]
    explained += ["--explain.explainers", "contrastive", "bands", "--score.tell-base-rate"]
    scorers = ["--score.scorers", "detection", "fuzzing", "intruder", "simulation", "--score.intruder-windows", "4"]
    assert cli.main(["run", str(run), *explained, *scorers]) == 0
    return run


@pytest.fixture(scope="module")
def hostile(described: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tokens, explanations, failures, settings and curves all are markup."""
    run = tmp_path_factory.mktemp("hostile") / "run"
    shutil.copytree(described, run)
    path = RunDirectory(run).tokens / "vocabulary.safetensors"
    pieces = load_vocabulary(path).pieces
    save_vocabulary(Vocabulary((HOSTILE.encode(), *(b"<b>" + piece for piece in pieces[1:]))), path)
    with Results(run / "results.sqlite") as results:
        results._db.execute("UPDATE explanations SET text = ? WHERE text IS NOT NULL", (HOSTILE,))
        untold = "UPDATE explanations SET text = NULL, failure = 'unreadable', failure_detail = ? WHERE "
        assert results._db.execute(untold + "explainer = 'contrastive' AND latent % 4 = 1", (HOSTILE,)).rowcount > 0
        failed = "predicted = NULL, probability = NULL, failure = 'unreadable', failure_detail = ?"
        where = "example % 3 = 0 AND scorer = 'detection'"
        assert results._db.execute(f"UPDATE judgements SET {failed} WHERE {where}", (HOSTILE,)).rowcount > 0
        results._db.execute("UPDATE changes SET n = n + 1")
    assert cli.main(["stats", str(run), "--neighbours", "jaccard"]) == 0
    directory = RunDirectory(run)
    lines = [
        json.loads(line) | {"coder": f"{quote(HOSTILE)},a,a,0"} for line in directory.metrics.read_text().splitlines()
    ]
    directory.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with closing(sqlite3.connect(run / "replies.sqlite", isolation_level=None)) as replies:
        for part, text in ((0, HOSTILE), (1, HOSTILE[:200])):  # not all as long, for pages that are loaded in a moment
            replies.execute("UPDATE parts SET content = ? WHERE (part % 40 > 0) = ?", (text, part))
            some = "(LENGTH(LTRIM(request, '0123456789ab')) % 8 > 0) = ?"
            replies.execute(f"UPDATE replies SET text = ? WHERE text IS NOT NULL AND {some}", (text, part))
    return run
