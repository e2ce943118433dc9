"""`fedpretrain run ROAD`: the steps of a project in order (fedcore.pipelines.spec), and what came of them.

A step whose words, recipe, images and earlier steps are those of last time is not repeated; where one of them changed
it is done anew in another folder, and the old one stays. Interrupted steps go on from their last round.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedcore.cli.main import dispatch
from fedcore.config.recipe_files import find
from fedcore.data.cache.file_index import FileIndex, cache_key
from fedcore.data.cache.folder import default_folder, open_cache
from fedcore.data.source import Data
from fedcore.data.synthetic.audit_record import AUDIT, AuditRecord
from fedcore.errors import InputError
from fedcore.files.lock import locked
from fedcore.files.reading import read_json
from fedcore.files.writing import require_writable, write_json
from fedcore.pipelines.spec import HERE, Step, names_in, read_steps, with_names
from fedcore.pipelines.validation import check
from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Run
from fedcore.report.units import duration, plural
from fedcore.runs.folder import essence
from fedcore.runs.progress import bars_of

LEDGER, REPORT = "road.json", "report.html"
USAGE = """usage: fedpretrain run ROAD [--out FOLDER] [--KEY VALUE ...]

Does the steps of a road in order, leaves out those already done, and ends with a table of scores and one report.
--KEY VALUE overrides what is `shared`: --data.manifest my.csv"""


def command(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(USAGE)
        return 0
    path = find(arguments[0])
    pairs = _pairs(arguments[1:])
    return travel(path, Path(pairs.pop("out", f"checkpoints/{path.stem}")), pairs)


def travel(path: Path, out: Path, overrides: Mapping[str, str] | None = None) -> int:
    """Does the road of a file under the folder `out`.

    Raises:
        InputError: Something is wrong with it, and nothing was done; or steps failed, and all else was done.
    """
    require_writable(out)
    steps = read_steps(path, overrides or {})
    check(steps, str(path))
    road = Road(out)
    with locked(out):
        road.do(steps)
        road.tell(steps)
    if road.failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in road.failed.items())
        raise InputError(
            f"{plural(len(road.failed), 'step')} of {len(steps)} not done; the same command tries again\n{reasons}"
        )
    return 0


def _pairs(words: Sequence[str]) -> dict[str, str]:
    if len(words) % 2 or any(not word.startswith("--") for word in words[::2]):
        raise InputError(f"run takes a road and pairs of --KEY VALUE\n{USAGE}")
    return {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}


@dataclass
class Road:
    """Steps under one folder, whose ledger holds those that are done, by the names of their own folders."""

    folder: Path
    folders: dict[str, Path] = field(default_factory=dict)
    """Of the steps that are done, by their names."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why a step was not done."""

    def do(self, steps: Sequence[Step]) -> None:
        """What needs a failed step is left out, and all else is done."""
        digests: dict[str, str] = {}
        width = max(len(step.name) for step in steps)
        for step in steps:
            if lacking := [need for need in step.needs if need not in self.folders]:
                self.failed[step.name] = f"left out, since it needs {' and '.join(lacking)}"
                continue
            digest = _digest(step, digests)
            place = self.folder / f"{step.name}-{digest[:6]}"
            try:
                self._do(step, place, f"  {step.name:<{width}}  {step.does:<28}")
            except InputError as e:
                self.failed[step.name] = str(e)
                continue
            digests[step.name], self.folders[step.name] = digest, place

    def tell(self, steps: Sequence[Step]) -> None:
        """Tables of scores, the page that compares all runs, and the folders of sets."""
        from fedcore.report import write_road
        from fedcore.report.terminal import show

        done = [step for step in steps if step.name in self.folders]
        if trained := [step for step in done if step.stage]:
            runs = [_named(step, self.folders[step.name]) for step in trained]
            families = [step.family.replace("_", " ") for step in trained]
            show(runs, families)
            print(f"\nreport: {write_road(runs, families, self.folder / REPORT)}")
        for step in done:
            if not step.stage and self.folders[step.name].exists():
                print(f"{step.name}: {self.folders[step.name]}{_verdicts(self.folders[step.name])}")

    def _do(self, step: Step, place: Path, line: str) -> None:
        if place.name in self._ledger():
            print(f"{line}{'done before':>14}")
            return
        words = step.told({name: str(folder) for name, folder in self.folders.items()} | {HERE: str(place)})
        if step.stage:
            words += ["--out", str(place), "--resume", "true"]
        _clear(step, place)
        begun = time.perf_counter()
        with bars_of(step.name), _timed(line):
            dispatch(words[0], words[1:])
        about = {"step": step.name, "words": list(step.words), "seconds": round(time.perf_counter() - begun, 1)}
        write_json(self.folder / LEDGER, self._ledger() | {place.name: about})

    def _ledger(self) -> dict[str, Any]:
        path = self.folder / LEDGER
        return read_json(path, "remove it, and every step is looked at again") if path.exists() else {}


def _verdicts(folder: Path) -> str:
    """Of a synthetic set's audit; nothing of another folder."""
    if not (folder / AUDIT).exists():
        return ""
    try:
        record = AuditRecord.read(folder)
    except InputError as e:
        return f"\n  {e}"
    useful = "; ".join([f"fit for use: {record.useful.answer}", *record.useful.reasons])
    return f"\n  privacy check: {'passed' if record.safe.answer == 'yes' else 'failed'}\n  {useful}"


def _clear(step: Step, place: Path) -> None:
    """Removes what a stopped step left half made, where it cannot go on from it."""
    goes_on = (place / "run.json").exists() if step.stage else "--resume" in step.words
    if not goes_on:
        shutil.rmtree(place, ignore_errors=True)


def _named(step: Step, folder: Path) -> Run:
    """The run of a step, with the road's names in place of folders."""
    run = read_run(folder, private=True)
    start: str = (step.recipe and step.recipe.config.get("pretrained")) or ""
    scores = replace(run.scores, encoder=with_names(start, str)) if run.scores and names_in(start) else run.scores
    return replace(run, name=step.name, scores=scores)


@contextlib.contextmanager
def _timed(line: str) -> Iterator[None]:
    """The line of a step, by how long it took or how it ended; what it prints itself is not shown.

    It comes when the step has ended: bars would wipe it, and lines of rounds (stderr) would run into it.
    """
    begun = time.perf_counter()
    ended = "failed"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
        ended = duration(time.perf_counter() - begun)
    except KeyboardInterrupt as e:
        ended = "stopped"
        raise KeyboardInterrupt("stopped; the same command goes on from here") from e
    finally:
        print(f"{line}{ended:>14}", flush=True)


def _digest(step: Step, digests: Mapping[str, str]) -> str:
    """Of all that a step is made of, with digests of earlier steps in place of their names."""
    made_of = [step.stage, essence(step.recipe.text)] if step.recipe else list(step.words)
    told = with_names(json.dumps(made_of), lambda name: digests.get(name, name))
    parts = [told, *(digests[name] for name in step.after)]
    if step.recipe and step.manifests:
        data = step.recipe.build()["data"]
        parts += [_content(data, manifest) for manifest in step.manifests]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content(data: Data, manifest: str) -> str:
    """Of the rows and every file they name; files that did not change are not read again."""
    folder = default_folder()
    with open_cache(folder):
        memo = FileIndex(folder / "known.json")
        found = cache_key([memo.digest(row) for row in data.read_manifest(manifest).rows], Path(manifest).read_bytes())
        memo.save()
    return found
