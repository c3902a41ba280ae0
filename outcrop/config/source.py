"""The language model under study and its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from outcrop.config.strict import Strict, require


@dataclass(frozen=True)
class ModelConfig(Strict):
    """The language model under study."""

    name: Annotated[str, arg(name="model", prefix_name=False)]
    """A directory, a hub name, or a .gguf file."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is bfloat16 where the hardware has it."""
    device: str = "auto"
    """cuda, mps or cpu; auto takes the first that is there."""
    batch_tokens: int = 4_096
    """Tokens of one forward pass, padding included."""

    def __post_init__(self) -> None:
        require(self.batch_tokens >= 1, f"model.batch-tokens is {self.batch_tokens}; it must be at least 1")


@dataclass(frozen=True)
class TextConfig(Strict):
    """The corpus, and how it is cut into contexts."""

    path: Annotated[str, arg(name="text", prefix_name=False)]
    """A .txt, .jsonl, .jsonl.gz or .parquet file, or the name of a data set on the hub."""
    column: str = "text"
    """The column or JSON field that holds the text."""
    split: str = "train"
    """Split of a hub data set."""
    context_tokens: int = 256
    """Longest context that the model reads at once, in tokens."""
    max_document_tokens: int = 512
    """What a document contributes at most, in tokens."""
    shuffle_documents: int = 100_000
    """Size of the shuffle buffer, in documents; a corpus below it is shuffled as a whole."""

    def __post_init__(self) -> None:
        require(
            self.context_tokens >= 2,
            f"text.context-tokens is {self.context_tokens}; it must be at least 2, "
            "because the first position of each context is excluded",
        )
        require(
            self.max_document_tokens >= 2,
            f"text.max-document-tokens is {self.max_document_tokens}; it must be at least 2",
        )
        require(
            self.shuffle_documents >= 1, f"text.shuffle-documents is {self.shuffle_documents}; it must be at least 1"
        )
