from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import InputError
from fedcore.files import lock
from fedcore.files.lock import LOCK, holds_nothing, locked

HOLDER = """
import sys
from pathlib import Path
from fedcore.files.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """By another process."""
    root = Path(lock.__file__).parents[1]
    words = [sys.executable, "-c", HOLDER, str(folder.absolute())]
    holder = subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.communicate()


def left_by(folder: Path, **note: Any) -> Path:
    """The lock of a process that did not remove it."""
    folder.mkdir()
    (folder / LOCK).write_text(json.dumps({"process": 7, "host": "far", "boot": "other", "since": "noon"} | note))
    return folder


def test_another_process_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "run") as holder:
        before = (tmp_path / "run" / LOCK).read_bytes()
        told = rf"run is being written by process {holder.pid} on .+ since 20.+; wait for it, or choose another folder"
        with pytest.raises(InputError, match=told), locked(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / LOCK).read_bytes() == before
    with locked(tmp_path / "run"):
        assert not (tmp_path / "run" / LOCK).read_text().count(str(holder.pid))


def test_the_lock_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "run") as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_a_process_may_lock_again_and_holds_the_lock_until_the_last_release(tmp_path: Path) -> None:
    outer, inner = locked(tmp_path), locked(tmp_path / ".." / tmp_path.name)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert (tmp_path / LOCK).exists()
    inner.__exit__(None, None, None)
    assert not (tmp_path / LOCK).exists()


def test_no_file_is_left(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        assert holds_nothing(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_a_lock_of_another_machine_is_reported_with_advice(tmp_path: Path) -> None:
    folder = left_by(tmp_path / "run")
    told = rf"locked by process 7 on far since noon and not unlocked.* remove {folder / LOCK} and try again"
    for _ in range(2):
        with pytest.raises(InputError, match=told), locked(folder):
            pass
    (folder / LOCK).unlink()
    with locked(folder):
        pass


@pytest.mark.parametrize("note", [{"host": lock.socket.gethostname()}, {"boot": lock._boot()}])
def test_an_old_lock_of_this_machine_is_ignored(tmp_path: Path, note: dict[str, str]) -> None:
    """It was started again since; or the process was killed, in a container of another name."""
    with locked(left_by(tmp_path / "run", **note)):
        pass


@pytest.mark.parametrize("rest", [b"", b"{", b"[3]"])
def test_a_note_that_was_cut_off(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / LOCK).write_bytes(rest)
    with locked(tmp_path):
        pass


def test_on_a_disk_without_locks_the_note_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(handle: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    alive = left_by(tmp_path / "alive", boot=lock._boot(), process=os.getppid())
    with pytest.raises(InputError, match=f"is being written by process {os.getppid()}"), locked(alive):
        pass
    with locked(left_by(tmp_path / "dead", boot=lock._boot(), process=2**22 + 1)):
        pass


def test_a_lock_that_is_removed_while_it_is_taken_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    flock = fcntl.flock

    def late(handle: int, how: int) -> None:
        (tmp_path / LOCK).unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="is being written by another process"), locked(tmp_path):
        pass


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_programs_that_are_started_do_not_inherit_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert not os.get_inheritable(lock._HELD[tmp_path.resolve()].handle)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "file" / "run"):
        pass
