"""What can go wrong, and whose fault it is.

    OutcropError
    ├── ConfigError          a setting that cannot be
    ├── TextError            the corpus: missing, damaged, empty, too short, without its column
    ├── ModelError           the language model: cannot be loaded, or
    │   ├── HookpointError   … has no such module
    │   └── NonFiniteError   … gives NaN or infinite activations
    ├── CoderError           a sparse coder that cannot be read, or does not fit
    ├── RunError             the run directory
    │   ├── StaleError       … was made with other settings
    │   └── CorruptError     … holds a file that is truncated, altered or foreign
    ├── JudgeError           the LLM that explains and judges does not answer at all
    ├── BudgetError          what may be spent on it is spent; all answers are kept
    └── AssetError           a pinned download is gone or altered

Each message says what was seen, what was expected and what to do. A single LLM reply that
failed is not an error but a value, `outcrop.types.Failure`, which is stored and counted.
"""

import textwrap


class OutcropError(Exception):
    """Any error whose message is meant for the user; the command line prints it without a traceback."""


class ConfigError(OutcropError):
    """A setting that cannot be."""


class TextError(OutcropError):
    """The corpus is missing, damaged, empty, too short or lacks its column."""


class ModelError(OutcropError):
    """The language model cannot be loaded or used."""


class HookpointError(ModelError):
    """The language model has no such module."""


class NonFiniteError(ModelError):
    """A hookpoint gave NaN or infinite activations."""


class CoderError(OutcropError):
    """A sparse coder that cannot be read, or that does not fit its place."""


class RunError(OutcropError):
    """The run directory cannot be used."""


class StaleError(RunError):
    """The run directory was made with other settings."""


class CorruptError(RunError):
    """A file of the run directory is truncated, altered or foreign."""


class JudgeError(OutcropError):
    """The LLM that explains and judges does not answer at all."""


class BudgetError(OutcropError):
    """What may be spent on the LLM that explains and judges is spent; all answers are kept."""


class AssetError(OutcropError):
    """A pinned download is gone or altered."""


def shortened(message: str, length: int) -> str:
    """Another library's message on one line, cut between words where it is longer."""
    return textwrap.shorten(message, length, placeholder=" …")
