"""What stages say of failures, of answers that were cut off, and of controls that are missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from outcrop import notes
from outcrop.config import ExplainConfig, ScoreConfig
from outcrop.replies import Replies
from outcrop.results import Results
from outcrop.types import Explanation, Failure, Message, Relation, Reply, Request
from tests.interp.conftest import latent

LATENTS = [latent(0), latent(1)]
ONE = Explanation(LATENTS[0].latent, "default", "all", "fruit", "hash")


def test_failed_relations_are_told_by_kind() -> None:
    def pair(first: str, second: str, failure: Failure | None) -> Relation:
        said = None if failure else "same"
        return Relation(ONE.latent, "bands", first, second, relation=said, failure=failure)

    late = Failure("timeout", "late")
    with Results() as results:
        assert notes.failures(results, "relations") is None
        results.add_relations([pair("low", "middle", None), pair("middle", "high", late), pair("low", "high", late)])
        assert notes.failures(results, "relations") == "2 of 3 relations failed: timeout 2"


def test_what_was_cut_off_is_told_with_the_limit_that_did_it(tmp_path: Path) -> None:
    request = Request((Message("user", "?"),), 48)
    name = request.hash("m")
    with Replies(tmp_path / "replies.sqlite") as replies:
        replies.add_many([(name, "m", request, Reply("words", None, 1, 48, 0.0))])
        short, thinking = ExplainConfig(max_tokens=48), ExplainConfig(max_tokens=16, reasoning_tokens=32)
        told = notes.cut_off([name], replies, short)
        assert told == "1 of 1 explanations were cut off; --explain.max-tokens, 48, is their limit"
        told = notes.cut_off([name], replies, thinking)
        assert told is not None and "--explain.reasoning-tokens and --explain.max-tokens, together 48," in told
        assert notes.cut_off(["another"], replies, short) is None


def test_explanations_without_a_second_control_are_told_where_there_is_to_be_one() -> None:
    told = notes.missing_controls(LATENTS, [ONE], ScoreConfig())
    assert told is not None and told.startswith("1 of the explanations without the control `other`")
    assert notes.missing_controls(LATENTS, [ONE], ScoreConfig(controls=("none",))) is None
    assert notes.missing_controls(LATENTS, [ONE], ScoreConfig(scorers=("intruder",))) is None
    other = replace(ONE, latent=LATENTS[1].latent, text="trees")
    assert notes.missing_controls(LATENTS, [ONE, other], ScoreConfig()) is None
