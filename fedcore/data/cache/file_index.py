"""An index of files: their digests and other facts, stored so that an unchanged data set is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedcore.data.io.error import ImageError
from fedcore.data.io.nifti import parts
from fedcore.data.manifest.row import Row
from fedcore.files.reading import parse_json, read_utf8


class FileIndex:
    """Facts by file, in one small JSON file; a file counts as unchanged while path, size and modification time are.

    Paths are stored as hashes only: file names may contain names of patients.
    """

    def __init__(self, path: Path):
        self.path = path
        self._facts = _read(path)
        self._known = len(self._facts)

    def digest(self, row: Row) -> str:
        """SHA-256 of the content of the row's image and mask."""
        parts = [
            self._tree(row.image),
            f"{row.member}[{row.index}]",
            self._tree(row.mask) if row.mask else "",
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def digest_of(self, path: Path) -> str:
        """SHA-256 of the content of a file, or of the files of a folder."""
        return hashlib.sha256(self._tree(path).encode()).hexdigest()

    def remembered(self, key: str, compute: Callable[[], list[int] | None]) -> list[int] | None:
        """`compute()`, or its last result for this key; a result of None is not stored, and computed again."""
        fact = self._facts.get(key)
        if isinstance(fact, list):
            return fact
        if (found := compute()) is not None:
            self._facts[key] = found
        return found

    def save(self) -> None:
        """Writes a temporary file and renames it; of two runs at a time the last file stays, and both are correct."""
        if len(self._facts) == self._known:
            return
        handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self._facts, file)
            Path(name).replace(self.path)
        finally:
            Path(name).unlink(missing_ok=True)
        self._known = len(self._facts)

    def _tree(self, path: Path) -> str:
        """A file's digest; of a folder, those of its files in the order of names; of a pair (.hdr, .img), both."""
        try:
            files = sorted(part for part in path.iterdir() if part.is_file()) if path.is_dir() else parts(path)
            return "".join(self._file(part) for part in files)
        except ImageError:  # a file of the pair is missing; decoding reports it
            return "half"
        except OSError as error:  # decoding reports it; once the file can be read, its digest differs
            return f"unreadable ({error.errno})"

    def _file(self, path: Path) -> str:
        stat = path.stat()
        key = hashlib.sha256(f"{path}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()
        fact = self._facts.get(key)
        if not isinstance(fact, str):
            with path.open("rb") as file:
                fact = self._facts[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return fact


def cache_key(digests: Sequence[str], *settings: object) -> str:
    """The name of a cache folder: digests of the rows in order, and the settings of their decoding."""
    return hashlib.sha256("\n".join([*digests, *map(repr, settings)]).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, str | list[int]]:
    """An unreadable index is not an error: all files are read again."""
    try:
        facts = parse_json(read_utf8(path))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
