"""A folder that one process at a time writes to.

The lock is the kernel's (flock on a file in the folder), so that it ends with the process however that ends; on NFS
and other shared disks it holds between machines where these pass locks on. The file says who holds it. Processes
that only read (report, watch) take no lock. Worker processes are spawned and do not inherit it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedcore.errors import InputError
from fedcore.files.writing import explained

LOCK = ".lock"


@dataclass
class _Hold:
    """A lock of this process, and how often it is held: a step may lock what its caller has locked."""

    handle: int
    made: bool
    """The folder was not there before."""
    count: int = 0


_HELD: dict[Path, _Hold] = {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else writes to `folder` meanwhile; it is made where it is not there.

    Raises:
        InputError: Another process does, or the folder cannot be written.
    """
    place = folder.absolute().resolve()
    hold = _HELD.get(place) or _acquired(place)
    _HELD[place] = hold
    hold.count += 1
    try:
        yield
    finally:
        hold.count -= 1
        if not hold.count:
            del _HELD[place]
            _release(place, hold)


def holds_nothing(folder: Path) -> bool:
    """Whether nothing but a lock is in `folder`, or it is not there."""
    return not folder.exists() or all(found.name == LOCK for found in folder.iterdir())


def _acquired(folder: Path) -> _Hold:
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(folder / LOCK)
    except OSError as e:
        raise explained(e, folder / LOCK, 0) from e
    try:
        _take(folder / LOCK, handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_self()).encode(), 0)
    except BaseException as e:
        os.close(handle)
        if isinstance(e, OSError):
            raise explained(e, folder / LOCK, 0) from e
        raise
    return _Hold(handle, made)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _take(path: Path, handle: int) -> None:
    """Raises InputError where another process has it, or may have it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InputError(_busy(path.parent, _note(handle))) from e
        if not _cannot_lock(e):
            raise
        if _alive(_note(handle)):
            raise InputError(_busy(path.parent, _note(handle))) from e
    if not _is_still(path, handle):  # its last holder has just removed it
        raise InputError(_busy(path.parent, {}))
    _require_of_this_machine(path, _note(handle))


def _require_of_this_machine(path: Path, note: dict[str, Any]) -> None:
    """A lock that was left by another machine may still be held there, since not all shared disks pass locks on."""
    if note and note.get("boot") != _boot() and note.get("host") != socket.gethostname():
        raise InputError(
            f"{path.parent} was written by {_who(note)}, which has not said that it ended. "
            f"If it goes no more, remove {path} and try again"
        )


def _busy(folder: Path, note: dict[str, Any]) -> str:
    return f"{folder} is being written by {_who(note)}; wait for it, or choose another folder"


def _who(note: dict[str, Any]) -> str:
    if not note:
        return "another process"
    return f"process {note.get('process')} on {note.get('host')} since {note.get('since')}"


def _self() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "since": since}


def _note(handle: int) -> dict[str, Any]:
    """What its last holder wrote; nothing where that ended well, or is just about to write."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _boot() -> str:
    """Of the running kernel: the same in all containers of a machine, another after it was started again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _alive(note: dict[str, Any]) -> bool:
    """Where the disk knows no locks the note alone tells."""
    if note.get("boot") != _boot() or not isinstance(note.get("process"), int):
        return False
    try:
        os.kill(note["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return note["process"] != os.getpid()


def _cannot_lock(error: OSError) -> bool:
    return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _release(folder: Path, hold: _Hold) -> None:
    """Removes the file while it is held, so that nobody else can be holding it; and a folder that stayed empty."""
    with suppress(OSError):
        (folder / LOCK).unlink()
    os.close(hold.handle)
    if hold.made:
        with suppress(OSError):
            folder.rmdir()
