"""Arrays inside .npz files: their shapes without reading them, one image without holding them all."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from functools import lru_cache
from io import BufferedIOBase
from math import prod
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fedcore.data.io.error import ImageError
from fedcore.data.io.limits import MAX_IMAGES, MAX_KEPT_BYTES, require_voxels

_extracting = Lock()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array in the file, from the headers alone.

    Raises:
        ValueError, zipfile.BadZipFile, OSError: The file is not a readable .npz.
    """
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as stream:
                    shape, _, dtype = _header(stream)
                if prod(shape) * dtype.itemsize > archive.getinfo(name).file_size:
                    raise ValueError(f"{name} is truncated: its header declares {' x '.join(map(str, shape))} values")
                if shape and shape[0] > MAX_IMAGES:
                    raise ValueError(f"{name} has {shape[0]:,} rows; an .npz may have at most {MAX_IMAGES:,}")
                found[name.removesuffix(".npy")] = shape
    return found


def shape_of(path: Path) -> tuple[int, ...]:
    """The shape of the array in a .npy."""
    with path.open("rb") as stream:
        return _header(stream)[0]


def labels(path: Path, member: str) -> np.ndarray:
    """A small array as a whole (MedMNIST's `train_labels`, shape (n, 1))."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as stream:
        if (size := archive.getinfo(f"{member}.npy").file_size) > MAX_KEPT_BYTES:
            raise ValueError(
                f"{member} unpacks to {size / 2**20:,.0f} MiB; labels may have at most {MAX_KEPT_BYTES / 2**20:,.0f}"
            )
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def item(path: Path, member: str, index: int) -> np.ndarray:
    """One element along the first axis of an array in the file.

    The array is unpacked once to an unnamed temporary file and memory-mapped, not loaded: memory stays constant, and
    unpacking it again for every image would take quadratic time.
    """
    with _extracting:  # else every thread of a pool would unpack its own copy
        array = _unpacked(path, member, path.stat().st_mtime_ns)
    return np.array(array[index])


@lru_cache(maxsize=2)
def _unpacked(path: Path, member: str, mtime_ns: int) -> np.memmap:
    """The memory-mapped array; `mtime_ns` makes a rewritten file a new entry."""
    with (
        zipfile.ZipFile(path) as archive,
        archive.open(f"{member}.npy") as packed,
        tempfile.TemporaryFile() as unpacked,
    ):
        _require_room(archive.getinfo(f"{member}.npy").file_size)
        require_voxels(_header(packed)[0][1:], "npz image")
        packed.seek(0)
        shutil.copyfileobj(packed, unpacked)
        unpacked.seek(0)
        shape, fortran, dtype = _header(unpacked)
        stored = np.memmap(unpacked, dtype, "r", unpacked.tell(), shape[::-1] if fortran else shape)
        return stored.T if fortran else stored


def require_complete(stream: IO[bytes], size: int) -> None:
    """Raises ImageError for a .npy of `size` bytes whose header declares more, or too large an image."""
    shape, _, dtype = _header(stream)
    require_voxels(shape, "npy")
    if stream.tell() + prod(shape) * dtype.itemsize > size:
        raise ImageError(f"truncated or unreadable (npy): its header declares {' x '.join(map(str, shape))} values")


def _require_room(size: int) -> None:
    """Raises ImageError if the disk of temporary files has no room for so many bytes."""
    if size > (free := shutil.disk_usage(tempfile.gettempdir()).free):
        raise ImageError(
            f"npz that unpacks to {size / 1e9:.1f} GB, and the temporary folder has {free / 1e9:.1f} GB free"
        )


def _header(stream: IO[bytes] | BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, column-major?, dtype) of the .npy at the stream's start; objects are never unpickled."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("arrays of Python objects are not read")
    return shape, fortran, dtype
