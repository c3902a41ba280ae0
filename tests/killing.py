"""Runs that kill themselves (SIGKILL) at a chosen moment.

    with Nursery() as nursery:
        life = nursery.run(["run", …], kill_at="cache: half of shard_00002.safetensors")

Each run is a fork of one process that has imported everything, so that it starts at once. There,
what a run does on its way (files, transactions, training steps, stored replies, marks) passes through
`_Moments`, which notes the name of each moment in a journal and kills the process at the chosen one.
Names are the same in each run: a run that is resumed skips some, and comes to the later ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Life:
    """What became of one run: its exit status, or -9 if it was killed, and the moments it came to."""

    status: int
    moments: list[str]

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Nursery:
    """The process that is forked."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal

    def __enter__(self) -> Nursery:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, arguments: list[str], kill_at: str | None = None, kill_after_seconds: float = 0) -> Life:
        """One run of the command line, up to its end, its moment or its time."""
        self._journal.write_text("")
        order = [arguments, kill_at, kill_after_seconds, str(self._journal)]
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return Life(status, self._journal.read_text().splitlines())


class _Moments:
    """Where this process is, in words."""

    def __init__(self, kill_at: str | None, journal: Path) -> None:
        self.stage = "start"
        self._kill_at = kill_at
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND)
        self._times: Counter[str] = Counter()
        self._doing = ""

    def pass_(self, name: str) -> None:
        moment = f"{self.stage}: {self._doing}{name}"
        os.write(self._journal, f"{moment}\n".encode())
        if moment == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def numbered(self, name: str) -> str:
        """The name with how often it has come in this stage."""
        self._times[f"{self.stage} {name}"] += 1
        return f"{name} {self._times[f'{self.stage} {name}']}"

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Within, moments have a longer name."""
        self._doing = f"{what}, "
        yield
        self._doing = ""

    def around(self, owner: Any, attribute: str, name: Callable[..., str]) -> None:
        """Moments before and after each call of a function, named by its arguments."""
        function = getattr(owner, attribute)

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            called = name(*args, **kwargs)
            self.pass_(f"before {called}")
            result = function(*args, **kwargs)
            self.pass_(f"after {called}")
            return result

        setattr(owner, attribute, watched)

    def among(self, items: Iterable[Any], name: str) -> Iterator[Any]:
        """Moments between items that someone else consumes."""
        for number, item in enumerate(items):
            yield item
            self.pass_(f"{name}, behind item {number}")


class _Halves:
    """A file whose content is written in two halves, with a moment between them."""

    def __init__(self, file: Any, between: Callable[[], None]) -> None:
        self._file, self._between = file, between

    def __enter__(self) -> _Halves:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._between()
        self._file.write(data[len(data) // 2 :])


def _watch(moments: _Moments) -> None:
    _watch_marks(moments)
    _watch_files(moments)
    _watch_databases(moments)
    _watch_work(moments)


def _watch_marks(moments: _Moments) -> None:
    from outcrop import stages
    from outcrop.run import RunDirectory

    mark = RunDirectory.mark

    def watched(self: Any, stage: str, value: Any) -> None:
        moments.stage = stage
        what = "marked complete" if value.complete else "marked begun"
        moments.pass_(f"before it is {what}")
        with moments.doing(f"as it is {what}"):
            mark(self, stage, value)
        moments.pass_(f"after it is {what}")

    RunDirectory.mark = watched
    moments.around(RunDirectory, "create", lambda self: "the directory is made")
    unmark = RunDirectory.unmark

    def unmarked(self: Any, *names: str) -> None:
        with moments.doing("as stale stages are unmarked"):
            unmark(self, *names)

    RunDirectory.unmark = unmarked
    clear = stages.clear

    def cleared(stage: str, directory: Any) -> None:
        moments.stage = stage
        moments.pass_("before its files are removed")
        clear(stage, directory)
        moments.pass_("after its files are removed")

    stages.clear = cleared


def _watch_files(moments: _Moments) -> None:
    open_, replace, rename = Path.open, Path.replace, Path.rename

    def _open(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = open_(self, mode, *args, **kwargs)
        if "w" in mode and self.name.endswith(_UNFINISHED) and not _is_hidden(self):
            moments.pass_(f"{_place(self)} is empty")
            return _Halves(file, lambda: moments.pass_(f"half of {_place(self)}"))
        return file

    def renamed(move: Callable[[Path, Any], Path]) -> Callable[[Path, Any], Path]:
        def watched(self: Path, target: Any) -> Path:
            if _is_hidden(self):
                return move(self, target)
            moments.pass_(f"before {_place(Path(target))} has its name")
            moved = move(self, target)
            moments.pass_(f"after {_place(Path(target))} has its name")
            return moved

        return watched

    Path.open, Path.replace, Path.rename = _open, renamed(replace), renamed(rename)


def _is_hidden(path: Path) -> bool:
    """Inside a checkpoint that has no name yet: its own renaming is the moment."""
    return path.parent.name == "unfinished"


def _place(path: Path) -> str:
    name = path.name.removeprefix(".").removesuffix(_UNFINISHED)
    return name if path.parent.parent.name not in ("coders", "cache") else f"{path.parent.name}/{name}"


def _watch_databases(moments: _Moments) -> None:
    from outcrop.replies import Replies
    from outcrop.results import Results

    def watched(method: Callable[..., None], name: str) -> Callable[..., None]:
        def call(self: Any, *args: Any) -> None:
            called = moments.numbered(name)
            *others, items = args
            moments.pass_(f"before {called}")
            method(self, *others, moments.among(items, f"within {called}"))
            moments.pass_(f"after {called}")

        return call

    for name in ("add_coder", "add_examples", "add_explanations", "add_judgements"):
        setattr(Results, name, watched(getattr(Results, name), name))
    moments.around(Results, "clear", lambda self, *tables: "the tables are emptied")
    add_many = Replies.add_many

    def store(self: Any, answers: Any) -> None:
        number = self._db.execute("SELECT COUNT(*) FROM replies").fetchone()[0]
        moments.pass_(f"before reply {number} is stored")
        add_many(self, answers)
        moments.pass_(f"after reply {number} is stored")

    Replies.add_many = store


def _watch_work(moments: _Moments) -> None:
    from outcrop import contents, work
    from outcrop.latents import cache
    from outcrop.train import course, evaluate

    log = work.Work._log

    def watched(self: Any, record: dict[str, Any], track: Any) -> None:
        with moments.doing(f"metrics of step {record['step']} of {record['coder']}"):
            log(self, record, track)

    work.Work._log = watched
    moments.around(work, "deal", lambda *_: "the documents are dealt")
    moments.around(course, "train_step", lambda state, x, step, *_: f"step {step} of {state.key.source}")
    moments.around(evaluate, "cross_entropies", lambda *_: "the cross-entropy of all coders")
    moments.around(cache, "_encode_range", lambda m, corpus, coders, shard, *_: f"shard {shard.index} is encoded")
    moments.around(contents, "survey", lambda *_, **__: moments.numbered("survey"))
    moments.around(work, "summarise", lambda *_: "the summary is made")
    moments.around(work, "render_page", lambda *_: "the page is made")


def _live(arguments: list[str], kill_at: str | None, journal: str) -> int:
    from outcrop.cli import main

    _watch(_Moments(kill_at, Path(journal)))
    return main(arguments)


def _fork(arguments: list[str], kill_at: str | None, kill_after_seconds: float, journal: str) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # the parent alone speaks on the pipe
        if kill_after_seconds:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, kill_after_seconds)
        os._exit(_live(arguments, kill_at, journal))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _serve() -> None:
    import outcrop.console
    import outcrop.interp.clients.openai
    import outcrop.pipeline
    import outcrop.report.console  # noqa: F401

    for line in sys.stdin:
        print(_fork(*json.loads(line)), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
