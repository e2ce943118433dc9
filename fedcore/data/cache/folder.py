"""The folder of the cache."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedcore.errors import InputError

UNFINISHED = ".decoding-"
"""Prefix of a folder that is still being written."""
_NOT_WRITABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
}
_STALE_SECONDS = 24 * 3600


def default_folder() -> Path:
    """`$FEDPRETRAIN_CACHE`, else `~/.cache/fedpretrain`."""
    return Path(os.environ.get("FEDPRETRAIN_CACHE") or Path.home() / ".cache" / "fedpretrain")


@contextmanager
def open_cache(folder: Path) -> Iterator[None]:
    """Creates the folder, readable by its owner alone (patients' images); a disk that is full or not writable raises
    InputError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        advice = "make room, or name another folder with data.cache or FEDPRETRAIN_CACHE"
        raise InputError(f"the cache {folder} cannot be written ({error.strerror}); {advice}") from error


def remove_stale(folder: Path) -> None:
    """Removes what killed runs left; a folder of the last 24 hours may belong to a run that is still decoding."""
    for left in folder.glob(f"{UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
