"""SHA256SUMS: what `sha256sum -c` checks, of the files that are handed on from a folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedcore.errors import InputError
from fedcore.files.writing import write_atomically

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_MOST_BYTES = 16 << 20


def write_sums(folder: Path, names: Sequence[str], coming: Mapping[str, bytes] | None = None) -> None:
    """Notes the checksums of files that are written, and of `coming` ones, which the caller writes next.

    Names are relative to the folder.
    """
    sums = {name: digest_of(folder / name) for name in names}
    sums |= {name: hashlib.sha256(data).hexdigest() for name, data in (coming or {}).items()}
    write_atomically(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())


def require_sums(folder: Path, names: Sequence[str], advice: str) -> None:
    """Raises InputError where a file is missing, has no checksum, or is not the one that was written."""
    if gone := next((name for name in names if not (folder / name).is_file()), None):
        raise InputError(f"{folder / gone} is missing; {advice}")
    noted = noted_in(folder, f"so {names[0]} cannot be checked; {advice}")
    for name in names:
        try:
            digest = digest_of(folder / name)
        except OSError as e:
            raise InputError(f"{folder / name} cannot be read ({e.strerror}); {advice}") from e
        if name not in noted:
            raise InputError(f"{folder / SUMS} has no line for {name}, so it cannot be checked; {advice}")
        if digest != noted[name]:
            raise InputError(
                f"{folder / name} is corrupted, truncated or not what was written: its SHA-256 is {digest[:12]}..., "
                f"{SUMS} says {noted[name][:12]}...; {advice}"
            )


def noted_in(folder: Path, advice: str) -> dict[str, str]:
    """Checksums by name; raises InputError where there are none, or no text."""
    try:
        with (folder / SUMS).open("rb") as file:
            text = file.read(_MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{folder / SUMS} is missing or damaged, {advice}") from e
    return {found[2]: found[1] for line in text.splitlines() if (found := _LINE.fullmatch(line))}


def digest_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
