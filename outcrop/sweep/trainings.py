"""The trainings of a sweep, one after the other, each alone on the machine.

    OUT/activations/     of the texts, computed once for all of them
    OUT/runs/POINT/      a run directory whose coders are trained, as `outcrop train` leaves it
    OUT/rows/POINT.json  its settings, and what was measured of each of its coders

What is complete is not done again.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from outcrop import config as configs
from outcrop import stages
from outcrop.coders.alike import matched, overlap
from outcrop.coders.placed import PlacedCoder
from outcrop.coders.weights import load_coder
from outcrop.config import RunConfig
from outcrop.contents import Contents
from outcrop.model.hooks import find_places
from outcrop.model.load import load_model
from outcrop.pipeline import Run
from outcrop.progress import Progress
from outcrop.run import write_atomically
from outcrop.sweep.grid import Point
from outcrop.train.evaluate import measure
from outcrop.train.loop import activation_stream, read_held_out
from outcrop.train.stream import Stream
from outcrop.types import CoderKey, Place, Reconstruction

Say = Callable[[str], None]
Row = dict[str, Any]


def train_all(
    points: Sequence[Point], folder: Path, targets: Sequence[float], *, progress: Progress, say: Say
) -> Iterator[list[Row]]:
    """One row per coder (`_row`) of all points that are trained: of those that were, and anew after each training. A
    text is dealt, and its activations at the places of all points that read it are kept, before the first of them is
    trained. StaleError where a point was made with other settings."""
    measured = {point.name: _kept(folder, point) for point in points}

    def rows() -> list[Row]:
        return [_row(point, one, targets) for point in points for one in measured[point.name]]

    if any(measured.values()):
        yield rows()
    texts = dict[str, _Text]()
    seeds: defaultdict[tuple[str, Place], list[Path]] = defaultdict(list)  # coders so far that differ in nothing else
    for number, point in enumerate(points, start=1):
        say(f"{number} of {len(points)}: {point.name}")
        config = replace(point.config, train=replace(point.config.train, activations=str(folder / "activations")))
        run = Run(config, folder / "runs" / point.name, progress=progress, say=say)
        new = not measured[point.name]
        if new:
            kind = _kind_of_text(config)
            if kind not in texts:
                alike = [one.config for one in points if _kind_of_text(one.config) == kind]
                texts[kind] = _Text.dealt(run, config, alike, progress, say)
            texts[kind].lend(run)
            run.until("train")
            measured[point.name] = _measured(run.contents, texts[kind])
        for one in measured[point.name]:
            coder = run.directory.coders / one["coder"]
            others = seeds[point.setting, CoderKey.parse(one["coder"]).place]
            if new:
                one["matched"] = _matched(coder, others)
            others.append(coder)
        if new:
            kept = {"made_with": configs.to_dict(point.config), "coders": measured[point.name]}
            (folder / "rows").mkdir(exist_ok=True)
            write_atomically(_row_file(folder, point), json.dumps(kept).encode())
            yield rows()


def _row_file(folder: Path, point: Point) -> Path:
    return folder / "rows" / f"{point.name}.json"


def _kept(folder: Path, point: Point) -> list[dict[str, Any]]:
    """What was measured of its coders; nothing if it is not trained, or was with other settings."""
    path = _row_file(folder, point)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return kept["coders"] if kept.get("made_with") == configs.to_dict(point.config) else []


def _kind_of_text(config: RunConfig) -> str:
    return json.dumps(stages.settings_of("tokens", config), sort_keys=True)


class _Text:
    """A text that was dealt and tokenized in one run, and the language model's activations on it."""

    def __init__(self, run: Run, config: RunConfig, say: Say) -> None:
        self._directory, self._contents = run.directory, run.contents
        self._config, self._model, self._say = config, load_model(config.model), say

    @staticmethod
    def dealt(run: Run, config: RunConfig, alike: Sequence[RunConfig], progress: Progress, say: Say) -> _Text:
        """By a run; `alike` are the settings of all that read the same text."""
        run.until("tokens")
        text = _Text(run, config, say)
        patterns = dict.fromkeys(pattern for one in alike for pattern in one.hookpoints)
        text._keep(find_places(text._model.module, list(patterns)), progress)
        return text

    def lend(self, run: Run) -> None:
        """Give a run the tokens, so that it need not deal the text itself."""
        if "tokens" in run.directory.marks():
            return
        run.directory.create()
        shutil.copytree(self._directory.tokens, run.directory.tokens, dirs_exist_ok=True)
        run.directory.mark("tokens", self._directory.marks()["tokens"])

    def unseen(self, place: Place) -> Stream:
        """The activations on documents that no coder was trained on."""
        return self._stream("cache", [place])

    def _keep(self, places: Sequence[Place], progress: Progress) -> None:
        train, batch_tokens = self._config.train, self._config.model.batch_tokens
        read_held_out(self._model, self._contents.corpus("held_out"), places, train, batch_tokens, progress)
        for part in ("train", "cache"):
            stream = self._stream(part, places)
            with progress("activations", stream.n_tokens, "tokens") as advance:
                for block in range(stream.n_blocks):
                    stream.block(block, advance)

    def _stream(self, part: str, places: Sequence[Place]) -> Stream:
        corpus, config = self._contents.corpus(part), self._config
        batch_tokens = config.model.batch_tokens
        return activation_stream(
            self._model, corpus, places, config.train, seed=config.seed, batch_tokens=batch_tokens, say=self._say
        )


def _measured(contents: Contents, text: _Text) -> list[dict[str, Any]]:
    """Of every coder of a run: its course, its reconstruction, and the latents that fired on no unseen token."""
    lines = contents.logged()
    reconstructions = {one.coder: one for one in contents.reconstructions()}
    found = []
    for placed in contents.coders:
        mine = [line for line in lines if line["coder"] == str(placed.key)]
        course = {f"course_{name}": [line[name] for line in mine] for name in ("tokens", "seconds", "fvu")}
        unfired, n_tokens = _unfired(placed, text.unseen(placed.key.place))
        about = _reconstructed(reconstructions[placed.key])
        about |= {"unfired_share": unfired, "unfired_tokens": n_tokens, "overlap": overlap(placed.coder)}
        found.append(about | course)
    return found


def _matched(coder: Path, others: Sequence[Path]) -> list[float] | None:
    """Of each layer, how like its latents are to those of the other coders, mean over these; None without any. What
    was deleted is not compared with."""
    own = load_coder(coder)[0]
    each = [matched(own, load_coder(other)[0]) for other in others if other.exists()]
    return np.mean(each, axis=0).tolist() if each else None


def _unfired(placed: PlacedCoder, stream: Stream) -> tuple[list[float], int]:
    """Of each layer, and on how many tokens."""
    coder = placed.coder.to(stream.device)
    fired, n_tokens = np.zeros((placed.coder.n_layers, placed.coder.latents_per_layer), dtype=bool), 0
    for index in range(stream.n_blocks):
        block = stream.block(index, lambda n: None)[placed.key.place].below(placed.max_norm)
        fired |= (measure(coder, block.source, block.target).fired > 0).cpu().numpy()
        n_tokens += len(block.source)
    return (~fired).mean(axis=1).tolist(), n_tokens


def _reconstructed(one: Reconstruction) -> dict[str, Any]:
    return {
        "coder": str(one.coder),
        "fvu": one.fvu,
        "l0": one.l0,
        "ce_recovered": one.cross_entropy.recovered,
        "kl": one.cross_entropy.kl,
        "dead_share": [layer.dead_share for layer in one.layers],
        "layer_fvu": [layer.fvu for layer in one.layers],
    }


def _row(point: Point, measured: Mapping[str, Any], targets: Sequence[float]) -> Row:
    """As the table has it: what was changed, what came of it, and when each target was reached."""
    row = {"point": point.name, "setting": point.setting} | dict(measured)
    for name in ("tokens", "seconds"):
        at, fvu = np.array(measured[f"course_{name}"]), np.array(measured["course_fvu"])
        row[name] = measured[f"course_{name}"][-1]
        row |= {f"{name}_to_{target:g}": reached(at, fvu, target) for target in targets}
    return row


def reached(at: np.ndarray, fvu: np.ndarray, target: float) -> float | None:
    """Where FVU first falls to the target, between two measurements, or where it was first measured if it was there
    before; None where it does not."""
    below = np.flatnonzero(fvu <= target)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(at[0])
    share = (fvu[i - 1] - target) / (fvu[i - 1] - fvu[i])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))
