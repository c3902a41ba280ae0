"""The reconstruction table: every coder, and every layer of its stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outcrop.report.ledger import coder_label
from outcrop.types import CrossEntropy, Reconstruction


def reconstruction_table(reconstructions: Sequence[Reconstruction]) -> list[dict[str, Any]]:
    return [
        {
            "coder": str(r.coder),
            "label": coder_label(str(r.coder)),
            "n_tokens": r.n_tokens,
            "trained_tokens": r.trained_tokens,
            "dead_after_tokens": r.dead_after_tokens,
            "gamma": r.gamma,
            "effective_rank": r.effective_rank,
            "fvu": r.fvu,
            "l0": r.l0,
            "layers": [
                {
                    "layer": i,
                    "fvu": layer.fvu,
                    "l0": layer.l0,
                    "norm_share": layer.norm_share,
                    "dead_share": layer.dead_share,
                    "unfired_share": layer.unfired_share,
                }
                for i, layer in enumerate(r.layers)
            ],
            "cross_entropy": _cross_entropy(r.cross_entropy),
        }
        for r in reconstructions
    ]


def _cross_entropy(ce: CrossEntropy) -> dict[str, Any]:
    """`delta` is what the coder costs, in nats; a share of a loss that is nothing is missing."""
    return {
        "n_tokens": ce.n_tokens,
        "clean": ce.clean,
        "coder": ce.coder,
        "zero": ce.zero,
        "mean": ce.mean,
        "delta": ce.coder - ce.clean,
        "kl": ce.kl,
        "recovered": ce.recovered if ce.zero != ce.clean else None,
        "recovered_from_mean": ce.recovered_from_mean if ce.mean != ce.clean else None,
    }
