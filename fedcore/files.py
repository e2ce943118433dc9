"""Writing files so that a killed process or a full disk leaves the old one whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from fedcore.errors import InputError


def write_atomically(path: Path, data: bytes, durable: bool = False) -> None:
    """Replaces `path` by `data` in one step; `durable` survives a power cut too.

    Raises:
        InputError: The disk is full or the folder cannot be written; the old file stands.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise explained(e, path, len(data)) from e


def write_json(path: Path, content: Any, durable: bool = False) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode(), durable)


def explained(error: OSError, path: Path, size: int) -> InputError:
    """An OSError in words that say what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"the disk is full: {path} needs {size / 1e6:.1f} MB; free some space, nothing older was lost"
        )
    return InputError(f"{path.parent} cannot be written ({error.strerror}); choose another folder or change its rights")


def require_writable(folder: Path) -> None:
    """Raises InputError if `folder` could not be made or written; makes nothing."""
    there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not there.is_dir():
        raise InputError(f"{folder} must be a folder, but {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} cannot be written; choose another folder or change its rights")
