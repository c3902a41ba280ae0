import socket
from pathlib import Path

import pytest

from outcrop.demo.llama import llama_server
from outcrop.errors import JudgeError


def test_a_server_that_does_not_start_says_its_last_word(tmp_path: Path) -> None:
    """Here because there is neither a module in the folder nor a model."""
    with (
        pytest.raises(JudgeError, match=r"did not start on port \d+ \(.*Error"),
        llama_server(tmp_path, tmp_path / "none.gguf", _free_port(), "name"),
    ):
        pass


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
