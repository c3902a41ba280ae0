"""Text → documents, from files and hub data sets."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from outcrop.config import TextConfig
from outcrop.errors import TextError, shortened

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may hold one alone, which no UTF-8 text can


def read_documents(config: TextConfig) -> Iterator[str]:
    """The texts of a file or a hub data set, in their order. In a .txt file, blank lines part documents."""
    path = Path(config.path)
    texts: Iterator[str | None]
    match "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix:
        case ".txt":
            texts = _read_txt(_existing(path))
        case ".jsonl" | ".jsonl.gz":
            texts = _read_jsonl(_existing(path), config.column)
        case ".parquet":
            texts = _read_parquet(_existing(path), config.column)
        case _ if path.exists():
            raise TextError(f"{path} is none of .txt, .jsonl, .jsonl.gz, .parquet; convert it to one of them")
        case _:
            texts = _read_hub(config)
    return (_SURROGATE.sub("\ufffd", text) for text in texts if text is not None and text.strip())


def shuffled(documents: Iterator[str], buffer: int, generator: np.random.Generator) -> Iterator[str]:
    """A shuffle buffer: each document is drawn from the next `buffer` ones."""
    held = list(islice(documents, buffer))
    generator.shuffle(held)
    for document in documents:
        index = int(generator.integers(len(held)))
        yield held[index]
        held[index] = document
    yield from held


def _read_txt(path: Path) -> Iterator[str]:
    with _damage_told(path), _open(path) as file:
        lines: list[str] = []
        for line in file:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines)
                lines = []
        if lines:
            yield "".join(lines)


def _read_jsonl(path: Path, column: str) -> Iterator[str | None]:
    with _damage_told(path), _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise TextError(f"{path}, line {number} is not JSON: {error}") from error
            yield _field(row, column, f"{path}, line {number}")


def _read_parquet(path: Path, column: str) -> Iterator[str | None]:
    with _damage_told(path), pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise TextError(_no_column(str(path), column, file.schema_arrow.names))
        for batch in file.iter_batches(columns=[column]):
            yield from batch.column(0).to_pylist()


def _read_hub(config: TextConfig) -> Iterator[str | None]:
    import datasets  # takes seconds to import, and only hub data sets need it

    try:
        rows = datasets.load_dataset(config.path, split=config.split, streaming=True)
        for row in rows:
            yield _field(row, config.column, config.path)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = shortened(str(error), 300)
        raise TextError(
            f"{config.path!r} is neither a file here nor a data set that the hub gives: {reason}"
        ) from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise TextError(f"there is no file at {path}")
    return path


def _open(path: Path) -> Any:
    opener = gzip.open if path.suffix == ".gz" else Path.open
    return opener(path, "rt", encoding="utf-8")


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """What is wrong within a file comes up while it is read."""
    try:
        yield
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise TextError(f"{path} is not UTF-8: {error.reason} {byte}; convert it, with iconv for instance") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TextError(
            f"{path} is truncated, damaged or no gzip file ({error}); fetch or compress it again, or name it .jsonl"
        ) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's word, not the format's
            raise
        reason = shortened(str(error), 300)
        raise TextError(
            f"{path} is truncated, damaged or no parquet file ({reason}); fetch or write it again"
        ) from error


def _field(row: Any, column: str, origin: str) -> str | None:
    if not isinstance(row, Mapping) or column not in row:
        raise TextError(_no_column(origin, column, list(row) if isinstance(row, Mapping) else [type(row).__name__]))
    return None if row[column] is None else str(row[column])


def _no_column(origin: str, column: str, names: list[str]) -> str:
    return f"{origin} has no column {column!r}; it has {', '.join(map(repr, names))}. Name one with --text.column."
