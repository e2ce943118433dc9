"""A resident process is started again when it ends, and stopped with all that it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedcore.deployment.flare import processes
from fedcore.deployment.flare.processes import run_in_foreground
from fedcore.errors import InputError

PARENT = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("child").write_text(str(child.pid))
time.sleep(600)
"""
RUN = """
import sys
from pathlib import Path
from fedcore.deployment.flare.processes import run_in_foreground
run_in_foreground([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
"""


def lives(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_sigterm_ends_everything_that_was_started(tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    process = subprocess.Popen([sys.executable, "-c", RUN, PARENT, str(tmp_path / "kit")])
    child = tmp_path / "kit" / "child"
    while not child.exists() or not child.read_text():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not lives(int(child.read_text()))


def test_a_process_that_ends_at_once_three_times_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kit").mkdir()
    monkeypatch.setattr(processes, "_AGAIN_SECONDS", 0.5)
    said: list[str] = []
    with pytest.raises(InputError, match=r"ended three times right after its start; see .*flare\.log"):
        run_in_foreground([sys.executable, "-c", "print('no server')"], tmp_path / "kit", said.append)
    assert len(said) == 2
    assert (tmp_path / "flare.log").read_text().count("no server") == 3
