"""What all settings have in common: they are checked when they are made."""

from __future__ import annotations

from pydantic import ConfigDict

from outcrop.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """ConfigError with this message, unless the condition holds."""
    if not condition:
        raise ConfigError(message)


class Strict:
    """Unknown settings in a file are refused, not ignored."""

    __pydantic_config__ = ConfigDict(extra="forbid")
