"""Processes of a trial, each as its own person would start it; all are stopped at the end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedcore.errors import InputError

_STOPPING_SECONDS = 60.0


@contextmanager
def resident(commands: Sequence[tuple[Sequence[str], Path]], cache: Path) -> Iterator[None]:
    """Runs commands of fedpretrain at the same time, each with its log, until the block ends."""
    environment = os.environ | {"FEDPRETRAIN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words, log in commands:
            with log.open("wb") as file:
                started.append(
                    subprocess.Popen([*program(), *words], stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                                     env=environment)
                )  # fmt: skip
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(_STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def program() -> list[str]:
    return [sys.executable, "-m", "fedcore.cli.main"]


def run(words: Sequence[str], cache: Path) -> str:
    """A command to its end; returns what it printed. Raises InputError where it failed."""
    environment = os.environ | {"FEDPRETRAIN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*program(), *words], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise InputError(f"fedpretrain {' '.join(words)} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(what: Callable[[], bool], seconds: float, error: str) -> None:
    """Raises InputError where it does not happen in time."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise InputError(error)
        time.sleep(0.5)
