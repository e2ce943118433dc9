"""Writes files atomically: a killed process or a full disk leaves the old file; symbolic links are not followed."""

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

_LONGEST_NAME = 255
"""Bytes of a file's name, on all common file systems."""


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """A temporary file next to `path` to write to; it then replaces `path` in one step.

    Args:
        path: File to replace; if it is a symbolic link, the link itself is replaced.
        size: Bytes to write, if known, for the error message.

    Raises:
        InputError: The disk is full or the folder cannot be written; the old file is unchanged.
    """
    part = path.with_name(_part(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # left by a killed process; or a link, through which another file would be written
        yield part
        part.replace(path)
    except BaseException as e:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise explained(e, path, size) from e
        raise


def _part(name: str) -> str:
    """Name of the temporary file, always the same for `name`; from its digest if `name` is long."""
    part = f".{name}.part"
    return part if len(os.fsencode(part)) <= _LONGEST_NAME else f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.part"


def write_atomically(path: Path, data: bytes, durable: bool = False) -> None:
    """Replaces `path` by `data` in one step; with `durable` it also survives a power failure.

    Raises:
        InputError: The disk is full or the folder cannot be written; the old file is unchanged.
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
    """The bytes that `write_json` writes."""
    return (json.dumps(content, indent=2) + "\n").encode()


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz file."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    write_atomically(path, data.getvalue())


def append(path: Path, text: str, durable: bool = False) -> None:
    """Appends `text`, complete lines, to `path`; an incomplete last line of a killed process is removed.

    Raises:
        InputError: The disk is full or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_incomplete_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as e:
        raise explained(e, path, len(text)) from e


def _remove_incomplete_line(path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def sync(path: Path) -> None:
    """Flushes a file, or the list of files of a folder, to the disk.

    Raises:
        InputError: The disk reports an error.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as e:
        if e.errno != errno.EINVAL:  # a file system without fsync of folders
            raise explained(e, path, 0) from e


def explained(error: OSError, path: Path, size: int) -> InputError:
    """An OSError as a message that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needs = f"{path} needs {_size_text(size)}" if size else f"{path} does not fit"
        return InputError(f"the disk is full: {needs}; free some space, existing files are unchanged")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(
            f"the file name {path.name[:60] + '...'!r} is too long here ({error.strerror}); choose a shorter one"
        )
    return InputError(f"{path.parent} cannot be written ({error.strerror}); choose another folder or change its rights")


def _size_text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB" if size >= 1e3 else f"{size} bytes"


def require_writable(folder: Path) -> None:
    """Raises InputError if `folder` cannot be created or written; creates nothing."""
    if any("\0" in part or len(os.fsencode(part)) > _LONGEST_NAME for part in folder.parts):
        raise InputError(
            f"a folder's name must be at most {_LONGEST_NAME} bytes long, without NUL, got {str(folder)[:60]!r}...; "
            "choose another"
        )
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not existing.is_dir():
        raise InputError(f"{folder} must be a folder, but {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing} cannot be written; choose another folder or change its rights")


def require_no_links(folder: Path) -> None:
    """Raises InputError if anything in `folder` is a symbolic link: files would be written elsewhere through it."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            found = Path(place, name)
            if found.is_symlink():
                raise InputError(
                    f"{found} is a symbolic link; files written into {folder} must stay there: "
                    "replace the link by its target, or remove it"
                )
