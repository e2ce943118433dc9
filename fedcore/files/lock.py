"""Locks a folder, so that only one process writes to it.

The lock is flock on a file in the folder, so it ends with the process in any case. On NFS and other network disks it
holds between machines if the disk supports that. The file names the process that holds the lock. Processes that only
read (report, watch) need no lock. Worker processes are spawned and do not inherit it.
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
class _HeldLock:
    """A lock of this process; `count` is how often it was taken: a step may lock what its caller has locked."""

    handle: int
    made: bool
    """The folder did not exist before."""
    count: int = 0


_HELD: dict[Path, _HeldLock] = {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """In this context no other process can lock `folder`; it is created if it does not exist.

    Raises:
        InputError: Another process holds the lock, or the folder cannot be written.
    """
    place = folder.absolute().resolve()
    held_lock = _HELD.get(place) or _acquired(place)
    _HELD[place] = held_lock
    held_lock.count += 1
    try:
        yield
    finally:
        held_lock.count -= 1
        if not held_lock.count:
            del _HELD[place]
            _release(place, held_lock)


def holds_nothing(folder: Path) -> bool:
    """Whether `folder` holds nothing except a lock, or does not exist."""
    return not folder.exists() or all(found.name == LOCK for found in folder.iterdir())


def _acquired(folder: Path) -> _HeldLock:
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(folder / LOCK)
    except OSError as e:
        raise explained(e, folder / LOCK, 0) from e
    try:
        _lock_file(folder / LOCK, handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_self()).encode(), 0)
    except BaseException as e:
        os.close(handle)
        if isinstance(e, OSError):
            raise explained(e, folder / LOCK, 0) from e
        raise
    return _HeldLock(handle, made)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _lock_file(path: Path, handle: int) -> None:
    """Raises InputError if another process has the lock, or may have it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InputError(_busy(path.parent, _read_note(handle))) from e
        if not _cannot_lock(e):
            raise
        if _alive(_read_note(handle)):
            raise InputError(_busy(path.parent, _read_note(handle))) from e
    if not _is_same_file(path, handle):  # its last holder has just removed the file
        raise InputError(_busy(path.parent, {}))
    _require_of_this_machine(path, _read_note(handle))


def _require_of_this_machine(path: Path, note: dict[str, Any]) -> None:
    """A lock file of another machine may still be held there, since not all network disks share locks."""
    if note and note.get("boot") != _boot() and note.get("host") != socket.gethostname():
        raise InputError(
            f"{path.parent} was locked by {_who(note)} and not unlocked. "
            f"If that process has ended, remove {path} and try again"
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


def _read_note(handle: int) -> dict[str, Any]:
    """What the last holder wrote; empty if it ended normally, or has not written yet."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _boot() -> str:
    """Id of the running kernel: the same in all containers of a machine, a new one after each boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _alive(note: dict[str, Any]) -> bool:
    """Whether the process in the note is running; used on disks without locks."""
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


def _is_same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _release(folder: Path, held_lock: _HeldLock) -> None:
    """Removes the file while the lock is held, so that no other process holds it; also a new folder that is empty."""
    with suppress(OSError):
        (folder / LOCK).unlink()
    os.close(held_lock.handle)
    if held_lock.made:
        with suppress(OSError):
            folder.rmdir()
