"""The command line: one verb per stage, and those that do them all.

Nothing but this module and `console` knows about a terminal.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from outcrop import config as configs
from outcrop.config import ModelConfig, NeighbourMeasure, RunConfig, Statistic, Where
from outcrop.config.strict import require
from outcrop.errors import ConfigError, OutcropError

if TYPE_CHECKING:
    from outcrop.pipeline import Run

_STAGES = {
    "train": "Train the coders (and cut the text into tokens).",
    "cache": "Cache the latents over documents that were not trained on.",
    "explain": "Select latents, draw their examples, and explain them.",
    "score": "Score the explanations.",
    "report": "Write the summary and the page.",
}

Command = TypeVar("Command", bound="RunCommand")

_HELP = """usage: outcrop VERB [DIRECTORY] [SETTINGS]

  run         the whole road, from text to report
{stages}
  stats       the statistics of every latent, as a table and as Parquet
  sweep       trainings that differ in some settings, compared in one table
  hookpoints  list the hookpoints of a model, where coders can sit
  compare     what differs between the scores of two runs
  serve       runs, finished or still going, in the browser
  convert     write a coder as sparsify or SAELens reads it
  demo        the whole road on a small model and text that come as pinned downloads

Each stage works on a run directory, does what is missing before it, and takes the same
settings as run; those that are not given are the run directory's own. `outcrop VERB --help`
lists them."""


@dataclass(frozen=True)
class RunCommand:
    """A run: its directory and its settings."""

    config: Annotated[RunConfig, arg(name="")]
    out: Path
    """The run directory. One that exists is gone on with."""
    fresh: bool = False
    """Make anew what was made with other settings, instead of refusing."""
    retry_failed: bool = False
    """Ask the explainer and the judge again where they gave no answer."""


@dataclass(frozen=True)
class AskingCommand(RunCommand):
    """A run: its directory and its settings."""

    dry_run: bool = False
    """Ask nothing, but tell how many requests and tokens explaining and scoring would take."""


@dataclass(frozen=True)
class CacheCommand(RunCommand):
    """A run: its directory and its settings."""

    verify: bool = False
    """Cache nothing, but read all that was cached and tell whether it is as it was written."""


@dataclass(frozen=True)
class StatsCommand(RunCommand):
    """A run: its directory and its settings."""

    sort: Statistic = "firing_rate"
    """Column by which the shown rows are sorted, the largest first."""
    ascending: bool = False
    """The smallest first."""
    top: int = 20
    """Rows to show; the file holds them all."""
    neighbours: tuple[NeighbourMeasure, ...] = ()
    """Measures by which each latent's nearest latents are found."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"--top is {self.top}; it must be at least 1")


@dataclass(frozen=True)
class SweepCommand(RunCommand):
    """Trainings that differ in some settings: the directory of all, and the settings that they have in common."""

    grid: Path | None = None
    """A YAML list of grids, each with a list of values for some settings; kept in the directory once it is named."""
    target_fvu: tuple[float, ...] = ()
    """Held-out FVUs; the table tells after how many tokens and seconds each was reached."""

    def __post_init__(self) -> None:
        told = " ".join(f"{one:g}" for one in self.target_fvu)
        require(all(one > 0 for one in self.target_fvu), f"--target-fvu is {told}; expected positive FVUs")


@dataclass(frozen=True)
class ReportCommand(RunCommand):
    """A run: its directory and its settings."""

    where: Where = field(default_factory=Where)
    """Which latents the numbers on the console are about, and those in report/where.json; the page shows all."""
    html: bool = False
    """Write the pages of the dashboard into report/html, too: a folder that opens without a server."""


_COMMANDS: dict[str, type[RunCommand]] = {
    "run": AskingCommand,
    "explain": AskingCommand,
    "score": AskingCommand,
    "cache": CacheCommand,
    "report": ReportCommand,
}


atexit.register(gc.freeze)  # a last look for what can be collected takes a second, as the process ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; an error that is meant for the user becomes one line and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():  # a scheduler stops a run as Ctrl-C does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not given or given[0] in ("-h", "--help"):
        print(_HELP.format(stages="\n".join(f"  {verb:<11} {text}" for verb, text in _STAGES.items())))  # noqa: T201
        return 0
    verb, rest = given[0], given[1:]
    try:
        _verb(verb)(rest)
    except OutcropError as error:
        return _complain(str(error), 2)
    except BrokenPipeError:  # who read on has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return _complain(f"{error.strerror or error}{place}. What was complete is kept; the same command goes on.", 2)
    except sqlite3.OperationalError as error:  # its words for a full disk, or a file that may not be written
        return _complain(f"{error}. What was complete is kept; the same command goes on.", 2)
    except KeyboardInterrupt:
        return _complain("stopped. The same command goes on from here.", 130)
    return 0


def _verb(name: str) -> Callable[[Sequence[str]], None]:
    if name == "run" or name in _STAGES:
        return lambda rest: _run(name, rest)
    others: dict[str, Callable[[Sequence[str]], None]] = {
        "stats": _stats,
        "hookpoints": _hookpoints,
        "compare": _compare,
        "serve": _serve,
        "sweep": _sweep,
        "convert": _convert,
        "demo": _demo,
    }
    if name not in others:
        raise ConfigError(f"there is no verb {name!r}; the verbs are run, {', '.join((*_STAGES, *others))}")
    return others[name]


def _run(verb: str, arguments: Sequence[str]) -> None:
    command = parse_run(f"outcrop {verb}", arguments, _COMMANDS.get(verb, RunCommand))
    # torch and transformers take seconds to import; bad settings are told before.
    from outcrop.console import bars, quiet, say, show
    from outcrop.pipeline import Run
    from outcrop.report.console import console_requests

    quiet()
    last = "report" if verb == "run" else verb
    run = Run(command.config, command.out, fresh=command.fresh, progress=bars, say=say)
    if isinstance(command, CacheCommand) and command.verify:
        say(f"{run.verify()} shards are as they were written")
        return
    if isinstance(command, AskingCommand) and command.dry_run:
        show(console_requests(run.would_ask(last, retry_failed=command.retry_failed), command.config.judge))
        return
    run.until(last, retry_failed=command.retry_failed)
    if isinstance(command, ReportCommand):
        _report(run, command)
    elif last == "report":
        _show(run)
    elif last == "train":
        _show_training(run)


def _report(run: Run, command: ReportCommand) -> None:
    run.contents.forget_where()
    if command.where != Where():
        _show_where(run, command.where)
    else:
        _show(run)
    if command.html:
        _export(run)


def _export(run: Run) -> None:
    from outcrop.console import bars, say
    from outcrop.dashboard.export import export
    from outcrop.dashboard.opened import OpenedRun

    folder = run.directory.report / "html"
    export(OpenedRun(run.directory.path), folder, bars)
    say(f"The pages: {folder / 'index.html'}")


def _sweep(arguments: Sequence[str]) -> None:
    command = parse_run("outcrop sweep", arguments, SweepCommand)
    from outcrop.console import bars, quiet, say
    from outcrop.sweep import keep_settings, keep_targets, read_grid, sweep

    quiet()
    grid = command.grid or command.out / "grid.yaml"
    if not grid.exists():
        raise ConfigError(f"there is no {grid}; --grid names a file with the settings that the trainings differ in")
    points = read_grid(grid, command.config)
    keep_settings(command.out, command.config, grid.read_bytes(), fresh=command.fresh)
    targets = keep_targets(command.out, command.target_fvu)
    sweep(points, command.out, targets=targets, progress=bars, say=say)
    print((command.out / "table.md").read_text(encoding="utf-8"))  # noqa: T201


def _stats(arguments: Sequence[str]) -> None:
    command = parse_run("outcrop stats", arguments, StatsCommand)
    from outcrop.console import bars, quiet, say, show
    from outcrop.pipeline import Run
    from outcrop.report.console import console_statistics

    quiet()
    run = Run(command.config, command.out, fresh=command.fresh, progress=bars, say=say)
    table = run.statistics(command.neighbours)
    show(console_statistics(table, command.sort, ascending=command.ascending, top=command.top))
    say(f"All {len(table):,} latents: {run.directory.statistics.resolve()}")


def _show_training(run: Run) -> None:
    """How well the coders reconstruct, and where they are."""
    from outcrop.console import say, show
    from outcrop.report.console import console_reconstruction
    from outcrop.report.reconstruction import reconstruction_table

    show(console_reconstruction(reconstruction_table(run.contents.reconstructions())))
    say(f"The coders: {run.directory.coders.resolve()}")


def _show_where(run: Run, where: Where) -> None:
    """The summary of some latents, and where it is kept."""
    from outcrop.console import say, show
    from outcrop.report.console import console_summary

    summary = run.summary(where)
    show(console_summary(summary))
    say(f"Of the latents with {where} alone: {run.contents.save_where(summary).resolve()}")


def _show(run: Run) -> None:
    """The summary, and where the page is."""
    from outcrop.console import say, show
    from outcrop.report.console import console_asked, console_summary

    show(console_summary(run.contents.summary()))
    if asked := run.contents.asked():
        show(console_asked(asked, run.config.judge.replies))
    say(f"The report: {run.directory.page.resolve()}")


def parse_run(program: str, arguments: Sequence[str], kind: type[Command]) -> Command:
    """The settings: the flags, over those of --config or of the run directory, over the defaults."""
    rest = list(arguments)
    if rest and not rest[0].startswith("-"):
        rest = ["--out", *rest]
    rest, file = _taken(rest, "--config")
    out = _taken(rest, "--out")[1]
    base = _base(Path(file) if file else None, out)
    if out and not base and not any(argument.split("=")[0] in ("--model", "-h", "--help") for argument in rest):
        raise ConfigError(f"{out} is no run directory, and no --model is given to start one there with")
    if base and not out and not {"-h", "--help"} & {*rest}:
        raise ConfigError("no run directory is given; --out names it")
    default = kind(base, Path(out or ".")) if base else tyro.MISSING_NONPROP
    return tyro.cli(kind, args=rest, prog=program, default=default, description=_CONFIG_HELP)


_CONFIG_HELP = "Settings come from the flags; the others from --config FILE.yaml or else from the run directory itself."


def _base(file: Path | None, out: str | None) -> RunConfig | None:
    if file:
        return configs.load(file)
    own = Path(out) / "config.yaml" if out else None
    return configs.load(own) if own and own.exists() else None


def _taken(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """The arguments without `flag VALUE` (or flag=VALUE), and the value."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[:i] + arguments[i + 2 :], arguments[i + 1]
        if argument.startswith(f"{flag}="):
            return arguments[:i] + arguments[i + 1 :], argument.partition("=")[2]
    return arguments, None


def _hookpoints(arguments: Sequence[str]) -> None:
    model = tyro.cli(
        ModelConfig,
        args=_named(arguments, "--model"),
        prog="outcrop hookpoints",
        description="List the hookpoints of a model with their widths; * stands for the number of a layer.",
    )
    from outcrop.console import quiet
    from outcrop.model.hooks import hookpoint_widths, wildcards
    from outcrop.model.load import load_model

    quiet()
    for (pattern, width), n in wildcards(hookpoint_widths(load_model(model))).items():
        print(f"{pattern}\t{width}" + (f"\t× {n}" if n > 1 else ""))  # noqa: T201


@dataclass(frozen=True)
class CompareCommand:
    """Compare the scores of two runs, latent by latent where they are over the same coders."""

    first: Positional[Path]
    """A run directory."""
    second: Positional[Path]
    """Another; differences are the second's scores less the first's."""
    to: Path | None = None
    """A JSON file to keep the comparison in."""


def _compare(arguments: Sequence[str]) -> None:
    command = tyro.cli(CompareCommand, args=list(arguments), prog="outcrop compare")
    if command.to is not None and (command.to.is_dir() or not command.to.parent.is_dir()):
        raise ConfigError(f"--to is {command.to}; expected a file in a folder that exists")
    from outcrop.console import quiet, say, show
    from outcrop.pipeline import compare_runs
    from outcrop.report.console import console_comparison

    quiet()
    comparison = compare_runs(command.first, command.second)
    show(console_comparison(comparison, (str(command.first), str(command.second))))
    if command.to is not None:
        command.to.write_text(json.dumps(comparison, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"The comparison: {command.to.resolve()}")


@dataclass(frozen=True)
class ServeCommand:
    """Show runs in the browser; they are only read."""

    runs: Positional[tuple[Path, ...]]
    """Run directories, finished or still going."""
    host: str = "127.0.0.1"
    """Where to listen. Beyond loopback, a token in the printed address is asked for."""
    port: int = 8118
    """The port there."""
    live: bool = False
    """Let readers try a text: the language model is loaded, and says which latents fire on it."""


def _serve(arguments: Sequence[str]) -> None:
    command = tyro.cli(ServeCommand, args=list(arguments), prog="outcrop serve")
    if not command.runs:
        raise ConfigError("no run is named; `outcrop serve RUN` shows one")
    from outcrop.console import quiet, say
    from outcrop.dashboard.server import serve

    quiet()
    serve(command.runs, command.host, command.port, say, live=command.live)


@dataclass(frozen=True)
class ConvertCommand:
    """Write a coder of one layer so that another library loads it."""

    coder: Annotated[str, arg(prefix_name=False)]
    """A directory, such as one of a run's coders, or a hub name."""
    to: Literal["sparsify", "saelens"]
    """Whose layout."""
    out: Path
    """The directory to write."""
    model: str | None = None
    """Name of the language model, for SAELens's metadata."""
    hookpoint: str | None = None
    """Name of the hookpoint, for SAELens's metadata."""


def _convert(arguments: Sequence[str]) -> None:
    command = tyro.cli(ConvertCommand, args=_named(arguments, "--coder"), prog="outcrop convert")
    from outcrop.coders.formats.saelens import write_saelens
    from outcrop.coders.weights import from_hub, load_coder, write_sparsify

    path, out = Path(command.coder), command.out
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; name a new or empty directory with --out")
    coder, _ = load_coder(path if path.exists() else from_hub(command.coder))
    match command.to:
        case "sparsify":
            write_sparsify(coder, out)
        case "saelens":
            names = {"model_name": command.model, "hook_name": command.hookpoint}
            write_saelens(coder, out, {name: value for name, value in names.items() if value})
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")  # noqa: T201


def _named(arguments: Sequence[str], flag: str) -> list[str]:
    """The first argument may stand without its flag."""
    bare = bool(arguments) and not arguments[0].startswith("-")
    return [f"{flag}={arguments[0]}", *arguments[1:]] if bare else list(arguments)


def _demo(arguments: Sequence[str]) -> None:
    from outcrop.demo.demo import DemoCommand, prepare

    command = tyro.cli(DemoCommand, args=list(arguments), prog="outcrop demo")
    from outcrop.console import bars, quiet, say
    from outcrop.pipeline import Run

    quiet()
    config, connector = prepare(command, bars)
    with connector:
        run = Run(config, command.out, fresh=command.fresh, connect=connector, progress=bars, say=say)
        run.until("report", retry_failed=command.retry_failed)
    _show(run)
    if not run.directory.statistics.exists() or command.fresh:
        run.statistics(("jaccard", "decoder"))  # for the pages of `outcrop serve`


def _complain(message: str, status: int) -> int:
    line = " ".join(part.strip() for part in message.splitlines())
    print(f"outcrop: {line}", file=sys.stderr)  # noqa: T201
    return status
