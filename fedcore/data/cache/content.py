"""What is known of a file by its content, remembered so that an unchanged data set is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedcore.data.io.error import ImageError
from fedcore.data.io.nifti import parts
from fedcore.data.manifest.manifest import Row
from fedcore.files.reading import parse_json, read_utf8


class Memo:
    """Facts by file, kept in one small JSON; a file is the same while path, size and time of change are.

    Paths are kept as hashes only: file names may carry names of patients.
    """

    def __init__(self, path: Path):
        self.path = path
        self._facts = _read(path)
        self._known = len(self._facts)

    def digest(self, row: Row) -> str:
        """sha256 over the content of the row's image, and its mask."""
        parts = [
            self._tree(row.image),
            f"{row.member}[{row.index}]",
            self._tree(row.mask) if row.mask else "",
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def digest_of(self, path: Path) -> str:
        """sha256 over the content of a file, or of the files of a folder."""
        return hashlib.sha256(self._tree(path).encode()).hexdigest()

    def recall(self, key: str, compute: Callable[[], list[int] | None]) -> list[int] | None:
        """`compute()`, or what it gave last time for this key; None, for what cannot be told, is computed again."""
        fact = self._facts.get(key)
        if isinstance(fact, list):
            return fact
        if (found := compute()) is not None:
            self._facts[key] = found
        return found

    def save(self) -> None:
        """Written beside and renamed; of two runs at a time the last one's file stays, and both are right."""
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
        """A file's digest; of a folder, its files' digests in order of name; of a pair, those of both files."""
        try:
            files = sorted(part for part in path.iterdir() if part.is_file()) if path.is_dir() else parts(path)
            return "".join(self._file(part) for part in files)
        except ImageError:  # half of a pair, as decoding tells
            return "half"
        except OSError as error:  # decoding tells; the day the file can be read its digest is another
            return f"unreadable ({error.errno})"

    def _file(self, path: Path) -> str:
        stat = path.stat()
        key = hashlib.sha256(f"{path}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()
        fact = self._facts.get(key)
        if not isinstance(fact, str):
            with path.open("rb") as file:
                fact = self._facts[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return fact


def key_of(digests: Sequence[str], *settings: object) -> str:
    """The name of a cache: rows in order and the settings they were decoded with."""
    return hashlib.sha256("\n".join([*digests, *map(repr, settings)]).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, str | list[int]]:
    """An unreadable memo is no fault: everything is just looked at again."""
    try:
        facts = parse_json(read_utf8(path))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
