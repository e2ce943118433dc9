"""`fedpretrain run PIPELINE`: runs the steps of a pipeline in order and compares their results.

A step is skipped if its arguments, recipe, images and earlier steps are the same as in an earlier run of the pipeline.
If one of them changed, the step runs in a new folder, and the old folder stays. Interrupted training steps continue
from their last round.
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
from fedcore.pipelines.spec import HERE, Step, read_steps, references, resolve
from fedcore.pipelines.validation import validate
from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Run
from fedcore.report.units import duration, plural
from fedcore.runs.folder import essence
from fedcore.runs.progress import bars_of

RECORD, REPORT = "pipeline.json", "report.html"
USAGE = """usage: fedpretrain run PIPELINE [--out FOLDER] [--KEY VALUE ...]

Runs the steps of a pipeline in order, skips finished steps, and ends with a table of scores and one report.
--KEY VALUE overrides an option under `shared`: --data.manifest my.csv"""


def command(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(USAGE)
        return 0
    path = find(arguments[0])
    options = _options(arguments[1:])
    return run_pipeline(path, Path(options.pop("out", f"checkpoints/{path.stem}")), options)


def run_pipeline(path: Path, out: Path, overrides: Mapping[str, str] | None = None) -> int:
    """Runs the pipeline of a file in the folder `out`.

    Raises:
        InputError: The pipeline is not valid, and nothing was run; or steps failed, and all others were run.
    """
    require_writable(out)
    steps = read_steps(path, overrides or {})
    validate(steps, str(path))
    pipeline = Pipeline(out)
    with locked(out):
        pipeline.run(steps)
        pipeline.report(steps)
    if pipeline.failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in pipeline.failed.items())
        raise InputError(
            f"{len(pipeline.failed)} of {plural(len(steps), 'step')} failed or were skipped; "
            f"run the same command to try them again\n{reasons}"
        )
    return 0


def _options(arguments: Sequence[str]) -> dict[str, str]:
    if len(arguments) % 2 or any(not word.startswith("--") for word in arguments[::2]):
        raise InputError(f"run needs a pipeline and pairs of --KEY VALUE\n{USAGE}")
    return {key.removeprefix("--"): value for key, value in zip(arguments[::2], arguments[1::2], strict=True)}


@dataclass
class Pipeline:
    """Steps in one folder; `pipeline.json` there records finished steps by the names of their folders."""

    folder: Path
    folders: dict[str, Path] = field(default_factory=dict)
    """Of finished steps, by step name."""
    failed: dict[str, str] = field(default_factory=dict)
    """Step name -> why it did not finish."""

    def run(self, steps: Sequence[Step]) -> None:
        """Steps that need a failed step are skipped; all others run."""
        digests: dict[str, str] = {}
        width = max(len(step.name) for step in steps)
        for step in steps:
            if missing := [need for need in step.needs if need not in self.folders]:
                self.failed[step.name] = f"skipped, since it needs {' and '.join(missing)}"
                continue
            digest = _digest(step, digests)
            folder = self.folder / f"{step.name}-{digest[:6]}"
            try:
                self._run(step, folder, f"  {step.name:<{width}}  {step.command:<28}")
            except InputError as e:
                self.failed[step.name] = str(e)
                continue
            digests[step.name], self.folders[step.name] = digest, folder

    def report(self, steps: Sequence[Step]) -> None:
        """Prints tables of scores and the folders of synthetic sets, and writes the page that compares all runs."""
        from fedcore.report import write_pipeline_report
        from fedcore.report.score_tables import print_scores

        finished = [step for step in steps if step.name in self.folders]
        if trained := [step for step in finished if step.stage]:
            runs = [_named_run(step, self.folders[step.name]) for step in trained]
            families = [step.family.replace("_", " ") for step in trained]
            print_scores(runs, families)
            print(f"\nreport: {write_pipeline_report(runs, families, self.folder / REPORT)}")
        for step in finished:
            if not step.stage and self.folders[step.name].exists():
                print(f"{step.name}: {self.folders[step.name]}{_audit_summary(self.folders[step.name])}")

    def _run(self, step: Step, folder: Path, line: str) -> None:
        if folder.name in self._record():
            print(f"{line}{'finished before':>16}")
            return
        arguments = step.resolved({name: str(path) for name, path in self.folders.items()} | {HERE: str(folder)})
        if step.stage:
            arguments += ["--out", str(folder), "--resume", "true"]
        _clear(step, folder)
        started = time.perf_counter()
        with bars_of(step.name), _timed(line):
            dispatch(arguments[0], arguments[1:])
        seconds = round(time.perf_counter() - started, 1)
        about = {"step": step.name, "arguments": list(step.arguments), "seconds": seconds}
        write_json(self.folder / RECORD, self._record() | {folder.name: about})

    def _record(self) -> dict[str, Any]:
        path = self.folder / RECORD
        return read_json(path, "remove it, and all steps are checked again") if path.exists() else {}


def _audit_summary(folder: Path) -> str:
    """Two lines about the audit of a synthetic set; "" for another folder."""
    if not (folder / AUDIT).exists():
        return ""
    try:
        record = AuditRecord.read(folder)
    except InputError as e:
        return f"\n  {e}"
    useful = "; ".join([f"fit for use: {record.useful.answer}", *record.useful.reasons])
    return f"\n  privacy check: {'passed' if record.safe.answer == 'yes' else 'failed'}\n  {useful}"


def _clear(step: Step, folder: Path) -> None:
    """Removes the folder of an interrupted step that cannot be resumed."""
    resumable = (folder / "run.json").exists() if step.stage else "--resume" in step.arguments
    if not resumable:
        shutil.rmtree(folder, ignore_errors=True)


def _named_run(step: Step, folder: Path) -> Run:
    """The run of a step, with names of steps instead of folders."""
    run = read_run(folder, private=True)
    start: str = (step.recipe and step.recipe.config.get("pretrained")) or ""
    scores = replace(run.scores, pretrained=resolve(start, str)) if run.scores and references(start) else run.scores
    return replace(run, name=step.name, scores=scores)


@contextlib.contextmanager
def _timed(line: str) -> Iterator[None]:
    """Prints the line of a step with its duration, or how it ended; the output of the step is not shown.

    The line is printed at the end: progress bars would overwrite it, and lines of rounds (stderr) would mix with it.
    """
    started = time.perf_counter()
    end = "failed"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
        end = duration(time.perf_counter() - started)
    except KeyboardInterrupt as e:
        end = "stopped"
        raise KeyboardInterrupt("stopped; run the same command to continue") from e
    finally:
        print(f"{line}{end:>16}", flush=True)


def _digest(step: Step, digests: Mapping[str, str]) -> str:
    """Of everything that determines a step; references to earlier steps are replaced by their digests."""
    content = [step.stage, essence(step.recipe.text)] if step.recipe else list(step.arguments)
    resolved = resolve(json.dumps(content), lambda name: digests.get(name, name))
    parts = [resolved, *(digests[name] for name in step.after)]
    if step.recipe and step.manifests:
        data = step.recipe.build()["data"]
        parts += [_content_digest(data, manifest) for manifest in step.manifests]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content_digest(data: Data, manifest: str) -> str:
    """Of the rows of a manifest and all files that they name; unchanged files are not read again."""
    folder = default_folder()
    with open_cache(folder):
        memo = FileIndex(folder / "known.json")
        found = cache_key([memo.digest(row) for row in data.read_manifest(manifest).rows], Path(manifest).read_bytes())
        memo.save()
    return found
