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
from fedcore.data.io.grid import Grid, valid_affine
from fedcore.data.io.limits import require_voxels

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
_IN_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Units of space by the lowest bits of xyzt_units: metre, mm, micron."""
_GZIP, _MAX_RATIO = b"\x1f\x8b", 1032
"""First bytes of a gzip file, and its largest ratio of compression."""


def read_nifti(path: Path) -> np.ndarray:
    header = nifti_header(path)
    dtype = header.get_data_dtype()
    if dtype.fields:
        raise ImageError(
            f"colour voxels ({'RGBA32' if len(dtype.fields) == 4 else 'RGB24'}); save one number per voxel"
        )
    if dtype.kind == "c":
        raise ImageError(f"complex voxels ({dtype.name}); save their magnitude")
    shape = header.get_data_shape()
    require_voxels(shape, "NIfTI")
    channels = _channels(shape)
    _require_complete(parts(path)[-1], int(header.get_data_offset()) + prod(shape) * dtype.itemsize)
    with _stream(parts(path)[-1]) as stream:
        voxels = np.array(header.data_from_fileobj(stream))
    grid = _grid(header)
    return grid.to_ras(np.moveaxis(voxels.reshape(*grid.shape, channels), -1, 0))


def nifti_grid(path: Path) -> Grid:
    """The file must be readable."""
    return _grid(nifti_header(path))


def parts(path: Path) -> list[Path]:
    """The files of header and voxels: a pair (.hdr, .img) by either name, else the file itself."""
    for one, other in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if path.name.lower().endswith(one + packed):
                stem = path.name[: len(path.name) - len(one + packed)]
                partner = _partner(path.parent, stem, other)
                return [path, partner] if one == ".hdr" else [partner, path]
    return [path]


def _partner(folder: Path, stem: str, suffix: str) -> Path:
    for name in (f"{stem}{suffix}", f"{stem}{suffix.upper()}", f"{stem}{suffix}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise ImageError(f"the {suffix} file of the pair is missing")


@contextmanager
def _stream(path: Path) -> Iterator[Any]:
    """Decompressed if its first two bytes are those of gzip, whatever its name."""
    with path.open("rb") as plain:
        packed = plain.read(2) == _GZIP
        plain.seek(0)
        if packed:
            with gzip.open(plain) as unpacked:
                yield unpacked
        else:
            yield plain


def nifti_header(path: Path) -> Any:
    """nibabel's header of NIfTI 1 or 2, or of Analyze, which has no orientation."""
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
            raise ImageError("truncated or unreadable (NIfTI): it does not start with a NIfTI header")
        return kind.from_fileobj(stream)


def _require_complete(path: Path, size: int) -> None:
    """Raises ImageError for a file too small for `size` unpacked bytes, before memory is allocated for them."""
    with path.open("rb") as file:
        most = _MAX_RATIO if file.read(2) == _GZIP else 1
    if size > path.stat().st_size * most:
        raise ImageError("truncated or unreadable (NIfTI): its header declares more voxels than it contains")


def _channels(shape: tuple[int, ...]) -> int:
    """Length of the channel axis, at most 4: the fourth axis, or the fifth, which the standard uses for vectors."""
    beyond = [side for side in shape[3:] if side != 1]
    if len(beyond) > 1 or (beyond and beyond[0] > 4):
        raise ImageError(
            f"NIfTI of shape {shape}; a fourth axis may have at most 4 channels; save each volume of a series as a "
            "separate file"
        )
    return beyond[0] if beyond else 1


def _grid(header: Any) -> Grid:
    shape = (*header.get_data_shape()[:3], 1, 1, 1)[:3]
    unit = _IN_MM.get(int(header["xyzt_units"]) & 7) if "xyzt_units" in header else None
    if (affine := next(iter(affines(header).values()), None)) is not None:
        return Grid(shape, np.diag([unit or 1.0] * 3 + [1.0]) @ affine)
    sides = [float(side) for side in np.abs(header["pixdim"][1:4])]
    # An unset pixdim is 1 for all axes, without a unit.
    known = all(np.isfinite(sides)) and min(sides) > 0 and (unit is not None or set(sides) != {1.0})
    return Grid(shape, mm=tuple(side * (unit or 1.0) for side in sides) if known else None)


def affines(header: Any) -> dict[str, np.ndarray]:
    """The sform and the qform, in this order, if their codes are set and they are valid affines.

    If neither is, nibabel and others assume LAS, for old files; the file itself does not contain it.
    """
    from nibabel.spatialimages import HeaderDataError

    found = {}
    for name in ("sform", "qform"):
        if f"{name}_code" in header and header[f"{name}_code"] > 0:
            try:
                affine = valid_affine(getattr(header, f"get_{name}")())
            except (HeaderDataError, ValueError):  # not a rotation
                continue
            if affine is not None:
                found[name] = affine
    return found
