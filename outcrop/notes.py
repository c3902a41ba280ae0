"""What stages say of what did not come out as was hoped: a line each, or None where there is nothing to say."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from outcrop.config import ExplainConfig, ScoreConfig
from outcrop.interp.scorers.judging import without_other
from outcrop.replies import Replies
from outcrop.results import Answered, Results
from outcrop.schema import INTRUDER
from outcrop.types import Explanation, LatentExamples


def failures(results: Results, table: Answered) -> str | None:
    """How many rows of a table failed, by kind."""
    kinds = results.outcomes(table)
    failed = {kind: n for kind, n in kinds.items() if kind}
    told = ", ".join(f"{kind} {n:,}" for kind, n in failed.items())
    return f"{sum(failed.values()):,} of {sum(kinds.values()):,} {table} failed: {told}" if failed else None


def cut_off(requests: Collection[str], replies: Replies, config: ExplainConfig) -> str | None:
    """How many explanations were as long as they might be."""
    n = replies.cut_off(requests)
    limit = f"--explain.max-tokens, {config.max_tokens}, is their limit"
    if config.reasoning_tokens:
        limit = f"--explain.reasoning-tokens and --explain.max-tokens, together {config.most_tokens}, are their limit"
    return f"{n:,} of {len(requests):,} explanations were cut off; {limit}" if n else None


def missing_controls(
    examples: Sequence[LatentExamples], explanations: Sequence[Explanation], config: ScoreConfig
) -> str | None:
    """How many explanations have no second control, where there is to be one."""
    wanted = "other" in config.controls and any(scorer != INTRUDER for scorer in config.scorers)
    n = without_other(examples, explanations) if wanted else 0
    why = "no other latent has one of the kind that says something else"
    return f"{n:,} of the explanations without the control `other`: {why}" if n else None
