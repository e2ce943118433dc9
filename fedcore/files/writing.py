"""Writing files so that a killed process or a full disk leaves the old one whole, and nothing outside is touched."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.errors import InputError

_LONGEST = 255
"""Bytes of a file's name, on all common file systems."""


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """A file beside `path` to be written, which then takes the place of `path` in one step.

    Args:
        path: What is replaced; where it is a symbolic link, the link itself.
        size: Bytes that are written, as far as they are known; an error tells them.

    Raises:
        InputError: The disk is full or the folder cannot be written; the old file stands.
    """
    part = path.with_name(_part(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # of a killed process; or a link, through which another file would be written
        yield part
        part.replace(path)
    except BaseException as e:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise explained(e, path, size) from e
        raise


def _part(name: str) -> str:
    """The name of a file that is being written, the same each time; where `name` is long, made of its digest."""
    part = f".{name}.part"
    return part if len(os.fsencode(part)) <= _LONGEST else f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.part"


def write_atomically(path: Path, data: bytes, durable: bool = False) -> None:
    """Replaces `path` by `data` in one step; `durable` survives a power cut too.

    Raises:
        InputError: The disk is full or the folder cannot be written; the old file stands.
    """
    with replacing(path, len(data)) as part, part.open("xb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync(path.parent)


def write_json(path: Path, content: Any, durable: bool = False) -> None:
    write_atomically(path, json_bytes(content), durable)


def json_bytes(content: Any) -> bytes:
    """As `write_json` writes it."""
    return (json.dumps(content, indent=2) + "\n").encode()


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An .npz file, compressed."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    write_atomically(path, data.getvalue())


def append(path: Path, text: str, durable: bool = False) -> None:
    """Adds `text`, whole lines, at the end of `path`; half a line that a killed process left there goes.

    Raises:
        InputError: The disk is full or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as e:
        raise explained(e, path, len(text)) from e


def _drop_half_line(path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def sync(path: Path) -> None:
    """Waits until what was written to a file, or which files are in a folder, survives a power cut.

    Raises:
        InputError: The disk says no.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as e:
        if e.errno != errno.EINVAL:  # a file system that knows no syncing of folders
            raise explained(e, path, 0) from e


def explained(error: OSError, path: Path, size: int) -> InputError:
    """An OSError in words that say what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needs = f"{path} needs {_told(size)}" if size else f"{path} does not fit"
        return InputError(f"the disk is full: {needs}; free some space, nothing older was lost")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(
            f"the file name {path.name[:60] + '...'!r} is too long here ({error.strerror}); choose a shorter one"
        )
    return InputError(f"{path.parent} cannot be written ({error.strerror}); choose another folder or change its rights")


def _told(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB" if size >= 1e3 else f"{size} bytes"


def require_writable(folder: Path) -> None:
    """Raises InputError if `folder` could not be made or written; makes nothing."""
    if any("\0" in part or len(os.fsencode(part)) > _LONGEST for part in folder.parts):
        raise InputError(
            f"a folder's name must be at most {_LONGEST} bytes long, without NUL, got {str(folder)[:60]!r}...; "
            "choose another"
        )
    there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not there.is_dir():
        raise InputError(f"{folder} must be a folder, but {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} cannot be written; choose another folder or change its rights")


def require_no_links(folder: Path) -> None:
    """Raises InputError where something in `folder` is a symbolic link: what is written there would land elsewhere."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            found = Path(place, name)
            if found.is_symlink():
                raise InputError(
                    f"{found} is a symbolic link; what is written into {folder} must stay there: "
                    "put what it stands for in its place, or remove it"
                )
