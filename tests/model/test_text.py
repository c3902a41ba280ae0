import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcrop.config import TextConfig
from outcrop.errors import TextError
from outcrop.model.text import read_documents, shuffled

TEXTS = ["One.", "Two\nlines.", "Ünïcode 東京"]


def read(path: Path, column: str = "text") -> list[str]:
    return list(read_documents(TextConfig(str(path), column=column)))


def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(lines)
    pq.write_table(pa.table({"text": TEXTS, "id": [1, 2, 3]}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS) + "\n\n\n")
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "a.jsonl.gz") == read(tmp_path / "a.parquet") == TEXTS
    assert [text.strip() for text in read(tmp_path / "a.txt")] == TEXTS


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n\n{"text": "x"}\n')
    assert read(tmp_path / "a.jsonl") == ["x"]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x", "id": 1}\n')
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(TextError, match=r"no column 'text'.*'body'.*--text\.column"):
            read(tmp_path / name)
    assert read(tmp_path / "a.jsonl", column="body") == ["x"]


def test_bad_files_are_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(TextError, match="line 2 is not JSON"):
        read(tmp_path / "a.jsonl")
    with pytest.raises(TextError, match="no file"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(TextError, match=r"none of \.txt"):
        read(tmp_path / "a.csv")


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 5))
def test_shuffling_loses_and_repeats_nothing(n: int, buffer: int, seed: int) -> None:
    texts = [str(i) for i in range(n)]
    out = list(shuffled(iter(texts), buffer, np.random.default_rng(seed)))
    assert sorted(out, key=int) == texts
    assert out == list(shuffled(iter(texts), buffer, np.random.default_rng(seed)))
