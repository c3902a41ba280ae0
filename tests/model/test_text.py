import gzip
import json
import re
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


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


LINES = "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(500)).encode()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", "caf\xe9 noir".encode("latin-1"), "not UTF-8: invalid continuation byte 0xe9; convert it"),
        ("a.jsonl", b'{"text": "\xff"}\n', "not UTF-8: invalid start byte 0xff"),
        ("a.jsonl.gz", truncated(gzip.compress(LINES, mtime=0)), "truncated, damaged or no gzip file .*again"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:15] + b"#" * 30, "truncated, damaged or no gzip file"),
        ("a.jsonl.gz", LINES, r"no gzip file .*name it \.jsonl"),
        ("a.parquet", LINES, "truncated, damaged or no parquet file .*again"),
        ("a.parquet", b"", "truncated, damaged or no parquet file"),
    ],
)
def test_a_damaged_file_is_refused_with_its_path_and_the_remedy(
    name: str, data: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(TextError, match=rf"{re.escape(str(path))} is .*{reason}") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_parquet_file_with_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"document {i}" for i in range(500)]}), path, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:1000] = b"#" * 996
    path.write_bytes(bytes(data))
    with pytest.raises(TextError, match=r"a\.parquet is truncated, damaged or no parquet file"):
        read(path)


def test_a_lone_surrogate_is_replaced_and_a_pair_is_its_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x\\ud800y"}\n{"text": "\\ud83d\\ude00"}\n')
    assert read(tmp_path / "a.jsonl") == ["x\ufffdy", "😀"]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 5))
def test_shuffling_loses_and_repeats_nothing(n: int, buffer: int, seed: int) -> None:
    texts = [str(i) for i in range(n)]
    out = list(shuffled(iter(texts), buffer, np.random.default_rng(seed)))
    assert sorted(out, key=int) == texts
    assert out == list(shuffled(iter(texts), buffer, np.random.default_rng(seed)))
