"""Whatever moment a run is killed at, the same command goes on and ends as if nothing had been."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from outcrop.run import RunDirectory
from outcrop.stages import ORDER
from tests.killing import Life, Nursery
from tests.llm_server import LLMServer
from tests.tiny_run import arguments, files, tables, write_inputs

# Kills of each stage: the first and the last moment, two between them, and one of each of these kinds.
KINDS = (
    "after it is marked begun",
    "half of",
    "before step-",
    "has its name",
    "within",
    "stored",
    "before it is marked",
)
CONCURRENCY = 4


@dataclass
class Reference:
    """A run that was never killed."""

    path: Path
    moments: list[str]
    asked: int

    def of(self, stage: str) -> list[str]:
        return [moment for moment in self.moments if moment.startswith(f"{stage}: ")]


@dataclass
class Victim:
    """A run that is killed over and over, and what the judge heard of it."""

    path: Path
    command: list[str]
    nursery: Nursery
    server: LLMServer

    def live(self, kill_at: str | None = None, kill_after_seconds: float = 0) -> Life:
        """Go on from where it was killed; nothing that is complete or answered is done again."""
        had_step, had_shards, had_replies = self._step(), self._shards(), self._replies()
        asked = {messages: n for messages, n in self.asked().items() if messages in had_replies}
        assert len(asked) == len(had_replies)
        life = self.nursery.run(self.command, kill_at, kill_after_seconds)
        steps = [int(m.split()[3]) for m in life.moments if m.startswith("train: before step ")]
        assert not steps or steps[0] == had_step
        encoded = [int(m.split()[3]) for m in life.moments if m.startswith("cache: before shard ")]
        assert not encoded or encoded[0] == had_shards
        now = self.asked()
        assert {messages: now[messages] for messages in asked} == asked
        return life

    def asked(self) -> Counter[str]:
        """How often each request came, by its messages. Of the last before a kill, only a part may have come."""
        counts: Counter[str] = Counter()
        for body, n in list(self.server.asked.items()):
            with suppress(json.JSONDecodeError):
                messages = json.loads(body)["messages"]
                counts[json.dumps([[message["role"], message["content"]] for message in messages])] += n
        return counts

    def _step(self) -> int:
        steps = [int(path.name.removeprefix("step-")) for path in (self.path / "train").glob("step-*")]
        return max(steps, default=0)

    def _shards(self) -> int:
        """How many shards every coder has."""
        coders = list((self.path / "cache").glob("*"))
        return min((len(list(coder.glob("shard_*"))) for coder in coders), default=0) if len(coders) == 2 else 0

    def _replies(self) -> set[str]:
        """The messages of each request that is answered in the store."""
        store = self.path / "replies.sqlite"
        if not store.exists():
            return set()
        with closing(sqlite3.connect(store)) as db:
            try:
                parts = dict(db.execute("SELECT part, json_array(role, content) FROM parts"))
                found = db.execute("SELECT parts FROM replies WHERE failure IS NULL").fetchall()
            except sqlite3.OperationalError:  # killed before its tables were made
                return set()
        return {json.dumps([json.loads(parts[part]) for part in json.loads(row)]) for (row,) in found}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("journal") / "journal") as nursery:
        yield nursery


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, Path], nursery: Nursery) -> Reference:
    path = tmp_path_factory.mktemp("reference") / "run"
    with LLMServer() as server:
        command = ["run", "--out", str(path), *arguments(*inputs, server.address, judge__concurrency=CONCURRENCY)]
        life = nursery.run(command)
    assert life.status == 0
    assert len(set(life.moments)) == len(life.moments), "a moment has one name"
    return Reference(path, life.moments, sum(server.asked.values()))


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer(delay_seconds=0.003) as server:
        yield server


@pytest.fixture
def victim(tmp_path: Path, inputs: tuple[Path, Path], nursery: Nursery, server: LLMServer) -> Victim:
    path = tmp_path / "run"
    command = ["run", "--out", str(path), *arguments(*inputs, server.address, judge__concurrency=CONCURRENCY)]
    return Victim(path, command, nursery, server)


def chosen(moments: list[str]) -> list[str]:
    """Some of the moments of a stage, in their order."""
    kinds = [[i for i, moment in enumerate(moments) if kind in moment] for kind in KINDS]
    middles = [places[len(places) // 2] for places in kinds if places]
    spread = [round(i * (len(moments) - 1) / 3) for i in range(4)]
    return [moments[i] for i in sorted({*middles, *spread})]


def first_work(life: Life) -> str:
    """The first thing that a run does which its predecessors had not done."""
    moments = [moment for moment in life.moments if not moment.startswith("start: ")]
    units = ("before step ", "before shard ", "before reply ")
    wholes = ("removed", "dealt", "cross-entropy", "add_", "is made", "marked complete")
    found = (moment for words in (units, wholes) for moment in moments if any(word in moment for word in words))
    first = next(found, "all was done")
    return first.replace("before ", "")


def assert_equal(victim: Victim, reference: Reference) -> None:
    assert tables(victim.path) == tables(reference.path)
    assert files(victim.path) == files(reference.path)
    assert all(mark.complete for mark in RunDirectory(victim.path).marks().values())
    assert not list(victim.path.rglob(".*.unfinished"))


@pytest.mark.parametrize("stage", ["start", *ORDER])
def test_a_run_killed_again_and_again_in_a_stage_ends_like_one_never_killed(
    stage: str, victim: Victim, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before the first file, inside files, between them, before and after the mark: the same result, and
    no answer is asked for twice but those that were on their way."""
    points = chosen(reference.of(stage))
    assert len(points) >= 5
    lives = []
    for point in points:
        lives.append(victim.live(kill_at=point))
        assert lives[-1].killed and lives[-1].moments[-1] == point
        mark = RunDirectory(victim.path).marks().get(stage)
        assert stage == "start" or (mark is not None and mark.complete) == point.endswith("after it is marked complete")
    lives.append(victim.live())
    assert lives[-1].status == 0
    assert_equal(victim, reference)
    asked = victim.asked()
    assert len(asked) == reference.asked
    # In flight at a kill, or come and not yet stored while a transaction of the results was under way.
    assert asked.total() - len(asked) <= 2 * CONCURRENCY * len(points) * (stage in ("explain", "score"))
    with capsys.disabled():
        print()  # noqa: T201
        for point, (_, after) in zip(points, pairwise(lives), strict=True):
            print(f"  killed at {point!r}; then {first_work(after)!r}")  # noqa: T201


@pytest.mark.parametrize("optimizer", ["muon", "signum"])
def test_training_with_every_optimizer_resumes_to_the_same_bits(
    optimizer: str, tmp_path: Path, inputs: tuple[Path, Path], nursery: Nursery
) -> None:
    """The tests above train with Adam. Here further settings that have a state: a threshold, k, dead latents."""
    settings = {"train.optimizer": optimizer, "coder.selection": "batchtopk", "train.k-start": 12,
                "train.auxk-weight": 0.03, "train.dead-after-tokens": 500}  # fmt: skip
    paths = {name: tmp_path / name for name in ("whole", "killed")}
    commands = {name: ["train", "--out", str(p), *arguments(*inputs, None, **settings)] for name, p in paths.items()}
    whole = nursery.run(commands["whole"])
    assert whole.status == 0
    steps = [moment for moment in whole.moments if moment.startswith("train: before step ")]
    points = random.Random(optimizer).sample(steps, 5)
    for point in sorted(points, key=steps.index):
        assert nursery.run(commands["killed"], kill_at=point).killed
    assert nursery.run(commands["killed"]).status == 0
    whole_files, killed_files = (sorted(path.glob("coders/*/*.*")) for path in paths.values())
    assert len(whole_files) == len(killed_files) == 6
    assert [path.read_bytes() for path in whole_files] == [path.read_bytes() for path in killed_files]


def test_a_run_killed_by_the_clock_ends_like_one_never_killed(
    victim: Victim, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing here knows what the run is doing when it dies."""
    seconds, ends = 0.4, []
    while (life := victim.live(kill_after_seconds=seconds)).killed:
        ends.append(life.moments[-1] if life.moments else "its start")
        seconds *= 1.3
    assert life.status == 0
    assert len(ends) >= 3
    assert_equal(victim, reference)
    with capsys.disabled():
        print("\n" + "\n".join(f"  killed by the clock just after {end!r}" for end in ends))  # noqa: T201
