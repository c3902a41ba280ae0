"""What README and the pages of docs say exists: commands, settings with their defaults, names, files."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tyro
import yaml

import outcrop
from outcrop import cli
from outcrop.config import ModelConfig, RunConfig, TextConfig, Where, dump

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON_PAGE = ROOT / "docs" / "python.md"
OF_STATS = {"--sort", "--ascending", "--top", "--neighbours"}
OF_THE_COMMAND_LINE = {
    "--verify",
    "--out",
    "--fresh",
    "--retry-failed",
    "--dry-run",
    "--config",
    "--help",
    "--port",
    *OF_STATS,
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text(page)) if language in languages]


def spans(page: Path) -> list[str]:
    return SPAN.findall(FENCE.sub("", text(page)))


# -- commands ------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `outcrop`, from blocks of shell and from spans of code."""
    lines = [line for body in blocks(page, "", "sh", "bash", "console") for line in joined(body).splitlines()]
    for line in [*lines, *spans(page)]:
        words = line.strip().removeprefix("$ ")
        if words.startswith("outcrop "):
            yield from alternatives(shlex.split(words, comments=True)[1:])


def alternatives(words: list[str]) -> list[list[str]]:
    """One command per verb of `outcrop train | cache runs/a`."""
    n = 1
    while words[n : n + 1] == ["|"]:
        n += 2
    return [[verb, *words[n:]] for verb in words[:n:2]]


def joined(shell: str) -> str:
    return re.sub(r"\\\n\s*", " ", shell)


def test_a_command_is_found_in_a_block_over_several_lines_and_in_a_span(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`outcrop train | cache a`\n\n```sh\n$ outcrop run runs/a \\\n    --seed 1  # one\nls\n```\n")
    assert list(commands(page)) == [["run", "runs/a", "--seed", "1"], ["train", "a"], ["cache", "a"]]


@every_page
def test_every_command_parses(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for verb, *given in commands(page):
        if not verb.isupper():  # a placeholder
            parse(verb, given)


def parse(verb: str, given: list[str]) -> None:
    cli._verb(verb)  # ConfigError if there is none
    wanted = [word for word in given if word != "--help"]
    if verb == "hookpoints":
        tyro.cli(ModelConfig, args=[f"--model={wanted[0] if wanted else 'm'}", *wanted[1:]])
    elif verb == "convert":
        tyro.cli(cli.ConvertCommand, args=cli._named(wanted or ["c", "--to", "saelens", "--out", "o"], "--coder"))
    elif verb == "compare":
        tyro.cli(cli.CompareCommand, args=wanted or ["a", "b"])
    elif verb == "serve":
        assert tyro.cli(cli.ServeCommand, args=wanted or ["a"]).runs
    elif verb == "demo":
        tyro.cli(import_module("outcrop.demo.demo").DemoCommand, args=wanted)
    else:
        parse_run(verb, wanted)


ASKING = dict.fromkeys(("run", "explain", "score"), cli.AskingCommand)
KINDS = {
    **ASKING,
    "cache": cli.CacheCommand,
    "stats": cli.StatsCommand,
    "report": cli.ReportCommand,
    "sweep": cli.SweepCommand,
}


def parse_run(verb: str, given: list[str]) -> None:
    """A command that names no model goes on with a directory or a file, which is written for it."""
    placed = given if "--out" in given or (given and not given[0].startswith("-")) else ["some/run", *given]
    out = Path(placed[placed.index("--out") + 1] if "--out" in placed else placed[0])
    if "--config" in placed:
        write_config(Path(placed[placed.index("--config") + 1]))
    elif "--model" not in placed:
        write_config(out / "config.yaml")
    assert cli.parse_run("outcrop", placed, KINDS.get(verb, cli.RunCommand)).out == out


def write_config(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(RunConfig(ModelConfig("m"), TextConfig("t.txt"), ("a",))), encoding="utf-8")


@pytest.mark.parametrize("words", ["rum runs/a", "run runs/a --coder.widht 8", "demo --jugde x"])
def test_a_wrong_command_would_be_seen(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verb, *given = words.split()
    with pytest.raises((outcrop.OutcropError, SystemExit)):
        parse(verb, given)


# -- settings ------------------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """flag → default; MISSING where there is none."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(RunConfig).items():
        if dataclasses.is_dataclass(hint):
            found |= {flag_of(name, field, hint): field.default for field in dataclasses.fields(hint)}
    own = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    return found | {f"--{name}": own[name] for name in ("hookpoints", "seed")}


def flag_of(section: str, field: dataclasses.Field[Any], owner: Any) -> str:
    """`arg(name=…, prefix_name=False)` gives a flag without its section."""
    metadata = getattr(get_type_hints(owner, include_extras=True)[field.name], "__metadata__", ())
    short = [note.name for note in metadata if getattr(note, "prefix_name", None) is False]
    return f"--{short[0]}" if short else f"--{section}.{field.name.replace('_', '-')}"


def sections() -> dict[str, set[str]]:
    """As they stand in config.yaml."""
    config = yaml.safe_load(dump(RunConfig(ModelConfig("m"), TextConfig("t"), ("a",))))
    return {name: set(value) for name, value in config.items() if isinstance(value, dict)}


def default_shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(value)
    return value if isinstance(value, str) else f"{value:,g}" if isinstance(value, float) else f"{value:,}"


@every_page
def test_every_flag_is_a_setting(page: Path) -> None:
    filters = {flag_of("where", field, Where) for field in dataclasses.fields(Where)}
    verbs = {"--to", "--host", "--port", "--live", "--html", "--grid", "--target-fvu"}
    known = {*settings(), *OF_THE_COMMAND_LINE, *filters, *verbs}
    flags = {flag for span in spans(page) for flag in re.findall(r"(?:^|(?<=\s))--[\w.-]+", span)}
    assert flags <= known


@every_page
def test_every_setting_by_its_name_in_the_file_exists(page: Path) -> None:
    dotted = [span.split(".") for span in spans(page) if re.fullmatch(r"[a-z]+\.[a-z_-]+", span)]
    names = [(section, name) for section, name in dotted if section in sections() and name not in ("py", "md", "lock")]
    assert [name for section, name in names if name.replace("-", "_") not in sections()[section]] == []


@every_page
def test_every_default_in_a_table_is_that_of_the_setting(page: Path) -> None:
    rows = re.findall(r"^\| `(--[\w.-]+)` \| ([^|]+) \|", text(page), re.MULTILINE)
    shown = {flag: default for flag, default in rows if flag in settings()}
    assert shown == {flag: default_shown(settings()[flag]) for flag in shown}


def test_every_setting_stands_in_some_table() -> None:
    rows = {flag for page in PAGES for flag in re.findall(r"^\| `(--[\w.-]+)` \|", text(page), re.MULTILINE)}
    assert set(settings()) - rows == set()


# -- names, code and files -----------------------------------------------------------------------------------


def test_the_python_page_names_every_public_name_and_no_other() -> None:
    table = text(PYTHON_PAGE).partition("## Public names")[2]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {name for cell in cells for name in SPAN.findall(cell)} == set(outcrop.__all__)


def test_the_python_page_holds_the_example_as_it_is() -> None:
    assert text(ROOT / "examples" / "ten_lines.py") in blocks(PYTHON_PAGE, "python")


@every_page
def test_python_code_imports_and_uses_what_exists(page: Path) -> None:
    for code in blocks(page, "python"):
        if ">>>" in code:
            continue  # is run below
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("outcrop"):
                module = import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "oc":
                assert node.attr in outcrop.__all__


@every_page
def test_python_sessions_give_what_they_show(page: Path) -> None:
    runner = doctest.DocTestRunner(verbose=False)
    for code in blocks(page, "python"):
        runner.run(doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0))
    assert runner.failures == 0


def test_the_page_of_metrics_names_every_metric_of_the_report() -> None:
    from outcrop.report.page import METRIC_NAMES

    assert set(METRIC_NAMES) - set(spans(ROOT / "docs" / "metrics.md")) == set()


@every_page
def test_every_linked_file_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", FENCE.sub("", text(page)))
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_navigation_holds_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(leaves(nav)) == sorted(page.name for page in PAGES[1:])


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves(part)]
