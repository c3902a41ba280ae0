from pathlib import Path

import pytest

from examples import ten_lines
from tests.llm_server import LLMServer
from tests.tiny import write_corpus, write_model


def test_the_ten_line_example_goes_from_text_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model")
    text = write_corpus(tmp_path / "text.jsonl", n_documents=2_500)
    with LLMServer() as server:
        ten_lines.main(str(model), str(text), "model.layers.1", server.address)
    ledger, *explanations = capsys.readouterr().out.splitlines()
    assert "'scored': 6" in ledger
    assert len(explanations) == 6
