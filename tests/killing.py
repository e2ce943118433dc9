"""A process that has the modules loaded, and runs commands in forked children that it kills.

Run as a script: a line of JSON in, one out. A fork takes milliseconds where an import takes seconds; nothing that
starts threads has been done here, since torch's would not survive one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Kill:
    """By SIGKILL after so many seconds; or in a write, the first is 1, when that part of its bytes is written."""

    after: float | None = None
    write: int | None = None
    part: float = 0.0


@dataclass(frozen=True)
class Ended:
    code: int
    """As of subprocess: negative where a signal ended it."""
    seconds: float
    writes: int
    """Files that were written or appended to; 0 where it was killed."""


class Commands:
    """Runs commands of fedpretrain in `folder`, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        root = Path(__file__).parents[1]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, words: Sequence[str], kill: Kill = Kill()) -> Ended:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"words": list(words), "kill": vars(kill)}) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))

    def log(self) -> str:
        """What the last command said."""
        return (self.folder / "output.log").read_text()

    def close(self) -> None:
        self.process.communicate()


def _serve() -> None:
    for name in (
        "fedcore.config.recipe",
        "fedcore.server.job",
        "fedcore.pipelines.run",
        "fedssl.pretraining",
        "fedtune.classification.finetuning",
    ):
        importlib.import_module(name)
    for name in (
        "fedtune.segmentation.training",
        "fedgen.training",
        "fedgen.gan.gan",
        "fedgen.command",
        "diffusers",
        "monai.networks.nets",
    ):
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(_run(asked["words"], Kill(**asked["kill"]))) + "\n")
        answers.flush()


def _run(words: list[str], kill: Kill) -> dict[str, Any]:
    begun = time.monotonic()
    count, into = os.pipe()
    child = os.fork()
    if not child:
        _child(words, kill, into)
    os.close(into)
    if kill.after is not None:
        time.sleep(kill.after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    writes = os.read(count, 20)
    os.close(count)
    _, status = os.waitpid(child, 0)
    return {
        "code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begun, "writes": int(writes or b"0"),
    }  # fmt: skip


def _child(words: list[str], kill: Kill, count: int) -> None:
    """Never returns."""
    log = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from fedcore.cli.main import main

    done = _count_writes(kill)
    code: Any = 1
    try:
        main(words)
    except SystemExit as e:
        code = e.code
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(count, str(done[0]).encode())
    os._exit(code or 0)


def _count_writes(kill: Kill) -> list[int]:
    """Every file of a run is written through `Path.open`, beside its place ("xb") or at its end ("a")."""
    opened, done = Path.open, [0]

    def counting(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = opened(path, mode, *args, **kwargs)
        if mode in ("xb", "a"):
            done[0] += 1
            if done[0] == kill.write:
                return _dying(file, kill.part)
        return file

    Path.open = counting  # type: ignore[assignment, method-assign]
    return done


@contextlib.contextmanager
def _dying(file: Any, part: float) -> Iterator[Any]:
    class Dying:
        def write(self, data: Any) -> None:
            file.write(data[: round(part * len(data))])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    yield Dying()


if __name__ == "__main__":
    _serve()
