"""Arrays inside .npz files: their shapes without reading them, one image without holding them all."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
from numpy.lib import format as npy

_extracting = Lock()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array in the file, from the headers alone.

    Raises:
        ValueError, zipfile.BadZipFile, OSError: the file is not a readable .npz.
    """
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as stream:
                    found[name.removesuffix(".npy")] = _header(stream)[0]
    return found


def labels(path: Path, member: str) -> np.ndarray:
    """A small array, whole (MedMNIST's `train_labels`, shape (n, 1))."""
    with np.load(path, allow_pickle=False) as archive:
        return np.asarray(archive[member])


def item(path: Path, member: str, index: int) -> np.ndarray:
    """One element along the first axis of an array in the file.

    The array is unpacked once to a nameless temporary file and mapped, not loaded: memory stays flat where
    unpacking it again for every image would take quadratic time.
    """
    with _extracting:  # without it every thread of a pool would unpack its own copy
        array = _unpacked(path, member, path.stat().st_mtime_ns)
    return np.array(array[index])


@lru_cache(maxsize=2)
def _unpacked(path: Path, member: str, mtime_ns: int) -> np.memmap:
    """The mapped array; `mtime_ns` makes a rewritten file a new entry."""
    with (
        zipfile.ZipFile(path) as archive,
        archive.open(f"{member}.npy") as packed,
        tempfile.TemporaryFile() as unpacked,
    ):
        shutil.copyfileobj(packed, unpacked)
        unpacked.seek(0)
        shape, fortran, dtype = _header(unpacked)
        stored = np.memmap(unpacked, dtype, "r", unpacked.tell(), shape[::-1] if fortran else shape)
        return stored.T if fortran else stored


def _header(stream: IO[bytes] | BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, column-major?, dtype) of the .npy at the stream's start; objects are never unpickled."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("arrays of Python objects are not read")
    return shape, fortran, dtype
