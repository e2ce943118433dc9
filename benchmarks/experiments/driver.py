"""Runs experiments, each in its own process: they can be resumed, and their results are recorded when they are done."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from benchmarks.experiments.page import write_page
from benchmarks.experiments.results import Result, Results
from fedcore.cli.stages import run_stage
from fedcore.files.writing import write_json
from fedcore.runs.environment import commit, device, version


@dataclass(frozen=True)
class Experiment:
    """One variant on one dataset with one seed."""

    dataset: str
    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.variant}/{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Experiment:
        dataset, variant, seed = text.split("/")
        return cls(dataset, variant, int(seed))


@dataclass(frozen=True)
class Driver:
    """`python -m MODULE --data FOLDER` runs all experiments, each in its own process with one thread."""

    module: str
    description: str
    runs: Path
    """Folder of the runs; a finished run is not repeated."""
    experiments: Callable[[], Iterable[Experiment]]
    measure: Callable[[Experiment, Path], list[Result]]
    """Executes the missing runs of an experiment and returns its results, given the folder of the datasets."""

    def main(self, arguments: Sequence[str] | None = None) -> None:
        options = self._parse(arguments)
        if options.experiment:
            results = self.measure(Experiment.parse(options.experiment), options.data)
            write_json(self.runs / options.experiment / "results.json", [asdict(result) for result in results])
            return
        if not options.page:
            lock = Lock()
            chosen = [experiment for experiment in self.experiments() if str(experiment).startswith(options.only)]
            with ThreadPoolExecutor(options.jobs) as pool:
                list(pool.map(lambda experiment: self._run_in_process(experiment, options.data, lock), chosen))
        write_page(Results.load())

    def _parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=self.description.split("\n")[0])
        parser.add_argument("--data", type=Path, help="folder of the datasets")
        parser.add_argument(
            "--only", default="", help="experiments whose name starts with this: brain, brain/simclr, cxr/none/2"
        )
        parser.add_argument("--jobs", type=int, default=1, help="experiments at the same time, one thread each")
        parser.add_argument("--page", action="store_true", help="only write docs/results.md again")
        parser.add_argument("--experiment", help=argparse.SUPPRESS)
        options = parser.parse_args(arguments)
        if options.data is None and not options.page:
            parser.error("set --data to the folder of the datasets")
        return options

    def _run_in_process(self, experiment: Experiment, data: Path, lock: Lock) -> None:
        """Runs an experiment in its own process, then records its results."""
        command = [sys.executable, "-m", self.module, "--data", str(data), "--experiment", str(experiment)]
        start = time.perf_counter()
        process = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        if process.returncode == 0:
            results = json.loads((self.runs / str(experiment) / "results.json").read_text())
            with lock:
                Results.load().put((Result(**result) for result in results), hardware()).save()
        error = "" if process.returncode == 0 else f": {(process.stderr.strip().splitlines() or ['failed'])[-1]}"
        print(f"{experiment!s:<36}{time.perf_counter() - start:6.0f} s{error}", flush=True)


def finished_run(command: str, recipe: str, out: Path, *overrides: str) -> Path:
    """The finished run of a recipe in `out`: started, or resumed if it was interrupted."""
    about = out / "run.json"
    if not about.exists() or json.loads(about.read_text())["status"] != "finished":
        with contextlib.redirect_stdout(io.StringIO()):
            run_stage(command, [recipe, "--out", str(out), "--resume", "true", *overrides])
    return out


def hardware() -> dict[str, str]:
    return {"device": device(), "torch": version("torch") or "", "commit": commit() or ""}
