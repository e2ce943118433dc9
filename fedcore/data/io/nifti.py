"""NIfTI files and Analyze pairs to arrays."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid, usable
from fedcore.data.io.limits import require_voxels

ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
_IN_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Of a unit of space, by the lowest bits of xyzt_units: metre, mm, micron."""
_GZIP, _PACKED = b"\x1f\x8b", 1032
"""How a packed file begins, and how many times larger it can become."""


def read_nifti(path: Path) -> np.ndarray:
    header = nifti_header(path)
    dtype = header.get_data_dtype()
    if dtype.fields:
        raise ImageError(f"colour voxels ({'RGBA32' if len(dtype.fields) == 4 else 'RGB24'}); save one number a voxel")
    if dtype.kind == "c":
        raise ImageError(f"complex voxels ({dtype.name}); save their magnitude")
    shape = header.get_data_shape()
    require_voxels(shape, "NIfTI")
    channels = _channels(shape)
    _require_whole(parts(path)[-1], int(header.get_data_offset()) + prod(shape) * dtype.itemsize)
    with _stream(parts(path)[-1]) as stream:
        voxels = np.array(header.data_from_fileobj(stream))
    grid = _grid(header)
    return grid.turned(np.moveaxis(voxels.reshape(*grid.space, channels), -1, 0))


def nifti_grid(path: Path) -> Grid:
    """The file must be one that can be read."""
    return _grid(nifti_header(path))


def parts(path: Path) -> list[Path]:
    """The files of header and of voxels: a pair (.hdr, .img) by either name, else the file itself alone."""
    for one, other in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if path.name.lower().endswith(one + packed):
                stem = path.name[: len(path.name) - len(one + packed)]
                twin = _beside(path.parent, stem, other)
                return [path, twin] if one == ".hdr" else [twin, path]
    return [path]


def _beside(folder: Path, stem: str, ending: str) -> Path:
    for name in (f"{stem}{ending}", f"{stem}{ending.upper()}", f"{stem}{ending}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise ImageError(f"half of a pair: the {ending} file beside it is missing")


@contextmanager
def _stream(path: Path) -> Iterator[Any]:
    """Unpacked where its first two bytes say that it is packed, whatever its name."""
    with path.open("rb") as plain:
        packed = plain.read(2) == _GZIP
        plain.seek(0)
        if packed:
            with gzip.open(plain) as unpacked:
                yield unpacked
        else:
            yield plain


def nifti_header(path: Path) -> Any:
    """A header of nibabel's: of NIfTI 1 or 2, else of Analyze, which says nothing of how voxels lie."""
    import nibabel
    from nibabel.spm2analyze import Spm2AnalyzeHeader

    files = parts(path)
    with _stream(files[0]) as stream:
        start = stream.read(540)
        stream.seek(0)
        sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
        if 540 in sizes:
            kind = nibabel.Nifti2Header if len(files) == 1 else nibabel.nifti2.Nifti2PairHeader
        elif start[344:347] in (b"n+1", b"ni1"):
            kind = nibabel.Nifti1Header if len(files) == 1 else nibabel.nifti1.Nifti1PairHeader
        elif 348 in sizes and len(files) == 2:
            kind = Spm2AnalyzeHeader
        else:
            raise ImageError("truncated or unreadable (NIfTI): it does not begin with a header of NIfTI")
        return kind.from_fileobj(stream)


def _require_whole(path: Path, promised: int) -> None:
    """Raises ImageError for a file that cannot hold so many bytes, before room is made for them."""
    with path.open("rb") as file:
        most = _PACKED if file.read(2) == _GZIP else 1
    if promised > path.stat().st_size * most:
        raise ImageError("truncated or unreadable (NIfTI): its header promises more voxels than it holds")


def _channels(shape: tuple[int, ...]) -> int:
    """Beyond space there may be one axis of up to four: the fourth, or the fifth, where the standard puts vectors."""
    beyond = [side for side in shape[3:] if side != 1]
    if len(beyond) > 1 or (beyond and beyond[0] > 4):
        raise ImageError(
            f"NIfTI of shape {shape}; a fourth axis holds at most 4 channels; of a series of volumes save each as a "
            "file of its own"
        )
    return beyond[0] if beyond else 1


def _grid(header: Any) -> Grid:
    shape = (*header.get_data_shape()[:3], 1, 1, 1)[:3]
    unit = _IN_MM.get(int(header["xyzt_units"]) & 7) if "xyzt_units" in header else None
    if (affine := next(iter(affines(header).values()), None)) is not None:
        return Grid(shape, np.diag([unit or 1.0] * 3 + [1.0]) @ affine)
    sides = [float(side) for side in np.abs(header["pixdim"][1:4])]
    # What nobody set is 1 throughout, in no unit.
    said = all(np.isfinite(sides)) and min(sides) > 0 and (unit is not None or set(sides) != {1.0})
    return Grid(shape, mm=tuple(side * (unit or 1.0) for side in sides) if said else None)


def affines(header: Any) -> dict[str, np.ndarray]:
    """The sform and the qform, in this order, where their codes are set and they can be affines.

    Where neither is, nibabel and others assume LAS of old files; nobody knows it.
    """
    from nibabel.spatialimages import HeaderDataError

    found = {}
    for name in ("sform", "qform"):
        if f"{name}_code" in header and header[f"{name}_code"] > 0:
            try:
                affine = usable(getattr(header, f"get_{name}")())
            except (HeaderDataError, ValueError):  # no rotation
                continue
            if affine is not None:
                found[name] = affine
    return found
