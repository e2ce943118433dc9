"""Names of mask files: unique and valid on every file system."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedtune.prediction.mask_files import strip_extension

_MAX_BYTES = 255 - len(".nii.gz")
"""Length limit of a name on common file systems, less the longest extension of a mask."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices, which Windows does not accept for files, with any extension."""


def mask_names(images: Sequence[Path]) -> list[str]:
    """A name without extension for the mask of each image: the image's own if no other image has the same.

    Images of the same name, such as `a.png`, `A.jpg` and the series `a`, keep their extensions in it; the same file
    name in other folders gets a number. Case and composed accents make no difference. A device's name gets a leading
    `_`; a name that is too long is cut and ends with its digest.
    """
    stems = [_valid(strip_extension(printable(image.name))) for image in images]
    counts = Counter(map(_key, stems))
    names: list[str] = []
    taken = {key for key, count in counts.items() if count == 1}
    for image, name in zip(images, stems, strict=True):
        if counts[_key(name)] > 1:
            name = _unique(_valid(printable(image.name)), taken)
            taken.add(_key(name))
        names.append(name)
    return names


def printable(name: str) -> str:
    """A file's name as valid UTF-8; other bytes are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _unique(name: str, taken: set[str]) -> str:
    """The name, with the lowest number that makes it unique."""
    number, found = 1, name
    while _key(found) in taken:
        number += 1
        found = _valid(f"{name}-{number}")
    return found


def _key(name: str) -> str:
    """Equal for names that are one file on some file system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _valid(name: str) -> str:
    name = f"_{name}" if _RESERVED.fullmatch(name) else name
    data = name.encode()
    if len(data) <= _MAX_BYTES:
        return name
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[: _MAX_BYTES - len(digest) - 1].decode('utf-8', 'ignore')}-{digest}"
