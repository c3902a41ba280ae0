"""outcrop: train deep sparse coders, explain every latent, score honestly.

The names below are the public ones. Each stage is a function that needs no run directory;
`Run` ties them to one.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# A name is imported when it is first used, so that `import outcrop` does not wait for torch.
_HOME = {
    "outcrop.config": (
        "CacheConfig", "CoderConfig", "ExamplesConfig", "ExplainConfig", "JudgeConfig", "ModelConfig", "ReportConfig",
        "RunConfig", "ScoreConfig", "SelectConfig", "TextConfig", "TrainConfig",
    ),
    "outcrop.errors": ("OutcropError",),
    "outcrop.types": (
        "ActivationBatch", "CoderKey", "Example", "Explanation", "Failure", "Hookpoint", "Judgement", "LatentExamples",
        "LatentId", "Reconstruction", "SparseLatents", "Vocabulary", "Window",
    ),
    "outcrop.coders.stack": ("SparseStack",),
    "outcrop.coders.formats.saelens": ("write_saelens",),
    "outcrop.coders.placed": ("PlacedCoder",),
    "outcrop.coders.weights": ("load_coder", "save_coder", "write_sparsify"),
    "outcrop.interp.clients.client": ("connect",),
    "outcrop.interp.explain": ("explain",),
    "outcrop.interp.relations": ("relate",),
    "outcrop.interp.score": ("score",),
    "outcrop.interp.scorers.token_baseline": ("token_baseline",),
    "outcrop.latents.cache": ("LatentCache", "cache_latents"),
    "outcrop.latents.examples": ("build_examples", "token_evidence"),
    "outcrop.latents.survey": ("Survey", "survey"),
    "outcrop.model.hooks": ("find_hookpoints", "find_places"),
    "outcrop.model.load": ("LanguageModel", "load_model"),
    "outcrop.model.text": ("read_documents",),
    "outcrop.model.tokens": ("deal", "vocabulary"),
    "outcrop.pipeline": ("Run", "tabulate"),
    "outcrop.report.summary": ("summarise",),
    "outcrop.report.tables": ("read_tables",),
    "outcrop.results": ("Results",),
    "outcrop.train.loop": ("Trained", "evaluate_coders", "train_coders"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'outcrop' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
