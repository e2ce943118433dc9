"""SHA256SUMS: checksums of the files of a folder, in the format of `sha256sum -c`."""

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


def write_sums(folder: Path, names: Sequence[str], planned: Mapping[str, bytes] | None = None) -> None:
    """Writes the checksums of files that exist, and of `planned` ones, which the caller writes next.

    Names are relative to the folder.
    """
    sums = {name: digest_of(folder / name) for name in names}
    sums |= {name: hashlib.sha256(data).hexdigest() for name, data in (planned or {}).items()}
    write_atomically(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())


def require_sums(folder: Path, names: Sequence[str], advice: str) -> None:
    """Raises InputError if a file is missing, has no checksum, or was changed."""
    if missing := next((name for name in names if not (folder / name).is_file()), None):
        raise InputError(f"{folder / missing} is missing; {advice}")
    sums = read_sums(folder, f"so {names[0]} cannot be checked; {advice}")
    for name in names:
        try:
            digest = digest_of(folder / name)
        except OSError as e:
            raise InputError(f"{folder / name} cannot be read ({e.strerror}); {advice}") from e
        if name not in sums:
            raise InputError(f"{folder / SUMS} has no line for {name}, so it cannot be checked; {advice}")
        if digest != sums[name]:
            raise InputError(
                f"{folder / name} is corrupted, truncated or not what was written: its SHA-256 is {digest[:12]}..., "
                f"{SUMS} says {sums[name][:12]}...; {advice}"
            )


def read_sums(folder: Path, advice: str) -> dict[str, str]:
    """Checksums by name.

    Raises:
        InputError: The file is missing or is not text.
    """
    try:
        with (folder / SUMS).open("rb") as file:
            text = file.read(_MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{folder / SUMS} is missing or damaged, {advice}") from e
    return {found[2]: found[1] for line in text.splitlines() if (found := _LINE.fullmatch(line))}


def digest_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
