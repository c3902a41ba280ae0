"""The made-up run of the report, for tables."""

from tests.report.conftest import run, tables

__all__ = ["run", "tables"]
