"""Explanations that others wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outcrop.errors import ConfigError
from outcrop.interp.explainers.given import read_explanations, require_explanations
from outcrop.types import LatentId
from tests.interp.conftest import KEY

LATENTS = {LatentId(KEY, 0), LatentId(KEY, 1)}


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n\n")
    return path


def test_each_line_is_an_explanation(tmp_path: Path) -> None:
    file = written(
        tmp_path / "e.jsonl",
        {"latent": 0, "text": " fruit "},
        {"latent": 1, "text": "trees", "coder": str(KEY), "explainer": "neuronpedia", "source": "low"},
        {"latent": 1, "text": "woods"},
    )
    found = [(one.latent.index, one.explainer, one.source, one.text) for one in read_explanations(file, LATENTS)]
    assert found == [(0, "given", "all", "fruit"), (1, "neuronpedia", "low", "trees"), (1, "given", "all", "woods")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fruit", "line 2 is 'fruit'; expected"),
        ({"text": "fruit"}, "'latent'"),
        ({"latent": 0, "text": " "}, "no text"),
        ({"latent": 0, "text": "a", "explainer": ""}, "no explainer or source"),
        ({"latent": 0, "text": "a", "source": " "}, "no explainer or source"),
        ({"latent": 7, "text": "fruit"}, "was not selected"),
        ({"latent": 0, "text": "fruit", "coder": "other"}, "names the coder other"),
        ({"latent": 0, "text": "again"}, "line 2 explains latent 0 twice"),
        ('["latent"]', "expected"),
        ({"latent": 1, "text": None}, "expected"),
        ({"latent": 0.9, "text": "fruit"}, "expected"),
        ({"latent": True, "text": "fruit"}, "expected"),
        ({"latent": 1, "text": "fruit", "explainer": "contrastive"}, "one of ours"),
        ({"latent": 1, "text": "fruit", "coder": ["x"]}, "expected"),
        ({"latent": 1, "text": "half a pair \ud83d"}, "expected"),
        ({"latent": 1, "text": "fruit", "explaner": "me"}, "has a 'explaner'; there may be latent, text, coder"),
    ],
)
def test_a_line_that_is_none_is_told(line: object, words: str, tmp_path: Path) -> None:
    file = written(tmp_path / "e.jsonl", {"latent": 0, "text": "fruit"}, line)
    with pytest.raises(ConfigError, match=words):
        read_explanations(file, LATENTS)


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = written(tmp_path / "e.jsonl", {"latent": 0, "text": "fruit"})
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [one.text for one in read_explanations(file, LATENTS)] == ["fruit"]


def test_a_file_without_an_explanation_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no explanation"):
        read_explanations(written(tmp_path / "e.jsonl"), LATENTS)


def test_what_needs_no_latents_is_told_before_they_are_known(tmp_path: Path) -> None:
    require_explanations(written(tmp_path / "e.jsonl", {"latent": 7, "text": "of any coder"}))
    with pytest.raises(ConfigError, match="line 2 is 'fruit'"):
        require_explanations(written(tmp_path / "e.jsonl", {"latent": 7, "text": "of any coder"}, "fruit"))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_explanations(tmp_path / "none", LATENTS)
    (tmp_path / "latin").write_bytes(b'{"latent": 0, "text": "caf\xe9"}')
    with pytest.raises(ConfigError, match="UTF-8"):
        read_explanations(tmp_path / "latin", LATENTS)


def test_a_line_ends_at_a_line_feed_only(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text('{"latent": 0, "text": "fruit\u2028trees"}\n', encoding="utf-8")
    (found,) = read_explanations(file, LATENTS)
    assert found.text == "fruit\u2028trees"
