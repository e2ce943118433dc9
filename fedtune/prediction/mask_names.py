"""Names of the masks of several images: each another one, on every file system."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedtune.prediction.mask_files import stem

_ROOM = 255 - len(".nii.gz")
"""Bytes of a name, on common file systems, without the longest ending of a mask."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices, which Windows takes for no file, whatever their ending."""


def names_of(images: Sequence[Path]) -> list[str]:
    """A name for the mask of each image, without its ending: the image's, as far as no other has it too.

    Images that would share one, as `a.png`, `A.jpg` and the series `a` would, keep their endings in it, and the same
    name of other folders a number. Case and composed accents make no difference. A device's name is begun by `_`, and a
    name without room for an ending is cut and ends with its digest.
    """
    stems = [_allowed(stem(readable(image.name))) for image in images]
    shared = Counter(map(_key, stems))
    names: list[str] = []
    taken = {key for key, count in shared.items() if count == 1}
    for image, name in zip(images, stems, strict=True):
        if shared[_key(name)] > 1:
            name = _free(_allowed(readable(image.name)), taken)
            taken.add(_key(name))
        names.append(name)
    return names


def readable(name: str) -> str:
    """A file's name as a table can hold it; bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _free(name: str, taken: set[str]) -> str:
    """The name, with the first number that is needed to be another one."""
    number, found = 1, name
    while _key(found) in taken:
        number += 1
        found = _allowed(f"{name}-{number}")
    return found


def _key(name: str) -> str:
    """The same for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _allowed(name: str) -> str:
    name = f"_{name}" if _RESERVED.fullmatch(name) else name
    data = name.encode()
    if len(data) <= _ROOM:
        return name
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[: _ROOM - len(digest) - 1].decode('utf-8', 'ignore')}-{digest}"
