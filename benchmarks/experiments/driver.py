"""What the drivers of docs/results.md share: cells, each in a process of its own, resumable, booked when finished."""

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
from fedcore.cli.main import run_stage
from fedcore.files.writing import write_json
from fedcore.runs.environment import commit, device, version


@dataclass(frozen=True)
class Cell:
    """One way on one set with one seed."""

    data: str
    way: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}/{self.way}/{self.seed}"

    @classmethod
    def read(cls, text: str) -> Cell:
        data, way, seed = text.split("/")
        return cls(data, way, int(seed))


@dataclass(frozen=True)
class Driver:
    """`python -m MODULE --data FOLDER` runs the cells, each by `--cell` in a process of its own with one thread."""

    module: str
    about: str
    runs: Path
    """Folder of the cells' runs; what is finished there is not run again."""
    cells: Callable[[], Iterable[Cell]]
    measure: Callable[[Cell, Path], list[Result]]
    """Runs what is missing of a cell and returns its numbers, given the folder of the image sets."""

    def main(self, arguments: Sequence[str] | None = None) -> None:
        asked = self._asked(arguments)
        if asked.cell:
            found = self.measure(Cell.read(asked.cell), asked.data)
            write_json(self.runs / asked.cell / "cell.json", [asdict(one) for one in found])
            return
        if not asked.page:
            booking = Lock()
            chosen = [cell for cell in self.cells() if str(cell).startswith(asked.only)]
            with ThreadPoolExecutor(asked.jobs) as pool:
                list(pool.map(lambda cell: self._run_apart(cell, asked.data, booking), chosen))
        write_page(Results.load())

    def _asked(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=self.about.split("\n")[0])
        parser.add_argument("--data", type=Path, help="folder of the image sets")
        parser.add_argument("--only", default="", help="cells whose name begins so: brain, brain/simclr, cxr/none/2")
        parser.add_argument("--jobs", type=int, default=1, help="cells at a time, a thread each")
        parser.add_argument("--page", action="store_true", help="only write the page again")
        parser.add_argument("--cell", help=argparse.SUPPRESS)
        asked = parser.parse_args(arguments)
        if asked.data is None and not asked.page:
            parser.error("--data is needed: the folder that holds the image sets")
        return asked

    def _run_apart(self, cell: Cell, data: Path, booking: Lock) -> None:
        """Runs a cell, then books its numbers."""
        call = [sys.executable, "-m", self.module, "--data", str(data), "--cell", str(cell)]
        begun = time.perf_counter()
        done = subprocess.run(
            call, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            found = json.loads((self.runs / str(cell) / "cell.json").read_text())
            with booking:
                Results.load().put((Result(**one) for one in found), hardware()).save()
        told = "" if done.returncode == 0 else f": {(done.stderr.strip().splitlines() or ['failed'])[-1]}"
        print(f"{cell!s:<36}{time.perf_counter() - begun:6.0f} s{told}", flush=True)


def stage(command: str, recipe: str, out: Path, *overrides: str) -> Path:
    """The finished run of a recipe in `out`; an interrupted one is resumed, a finished one left as it is."""
    about = out / "run.json"
    if not about.exists() or json.loads(about.read_text())["status"] != "finished":
        with contextlib.redirect_stdout(io.StringIO()):
            run_stage(command, [recipe, "--out", str(out), "--resume", "true", *overrides])
    return out


def hardware() -> dict[str, str]:
    return {"device": device(), "torch": version("torch") or "", "commit": commit() or ""}
