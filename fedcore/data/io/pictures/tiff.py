"""TIFF files of one picture to arrays.

By tifffile, which keeps every depth and sign. What is compressed in a way that it cannot undo alone (LZW, JPEG, fax) is
read by Pillow, where Pillow keeps the numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.io.limits import require_picture, require_voxels
from fedcore.data.io.pictures.samples import samples_of, upright, without_alpha

_WHITE, _BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_REFUSED = {4: "a transparency mask", 5: "printing inks (CMYK)", 8: "CIELAB colours", 9: "CIELAB colours",
            10: "CIELAB colours", 32803: "a colour filter", 32844: "LogL", 32845: "LogLuv"}  # fmt: skip
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_JPEG = (6, 7, 33007, 34892)
"""Compressions, all of them lossy."""
_KEPT_BY_PILLOW = {(bits, _UNSIGNED) for bits in (1, 2, 4, 8, 12, 16, 32)} | {(16, 2), (32, _SIGNED), (32, _FLOAT)}
"""Bits and kind of grey samples whose numbers Pillow gives as they are; of colours it keeps 8 bits."""


def is_tiff(stream: IO[bytes]) -> bool:
    """By the first bytes (BigTIFF too); leaves the stream at its start."""
    head = stream.read(4)
    stream.seek(0)
    return head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(path: Path, mask: bool = False) -> np.ndarray:
    """(c, h, w), the numbers as stored, but bright is great at every depth.

    Of min-is-white files 0 is the brightest: they are mirrored within their bits, floats around 0. Alpha is dropped, a
    palette becomes RGB or, of a mask, its indices.
    """
    from tifffile import TiffFile

    with TiffFile(path) as file:
        page = _only_page(file)
        bits, kind = _bits(page), int(page.sampleformat)
        _require_known(page, kind)
        if mask:
            _require_lossless(page)
        _require_whole(page, path.stat().st_size)
        if (stored := _decoded(page)) is None:
            return _by_pillow(path, page, bits, kind, mask)
        tag = page.tags.get("Orientation")
        shown = _shown(np.moveaxis(stored, -1, 0) if page.axes == "YXS" else stored, page, bits, kind, mask)
        return upright(shown, int(tag.value) if tag else 1)


def is_grey_tiff(path: Path) -> bool:
    """By its header."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        return int(file.pages.first.photometric) in (_WHITE, _BLACK)


def _only_page(file: Any) -> Any:
    """Refuses stacks; smaller copies of the picture in the same file (thumbnails, pyramids) do not count."""
    full = [page for page in file.pages if not int(page.keyframe.subfiletype) & 1]
    if not full:
        raise ImageError("truncated or unreadable (TIFF): it holds no picture")
    count = len(full) * int(full[0].imagedepth)
    if count == 1 and (file.is_imagej or file.is_shaped):  # which may keep a whole stack behind one header
        count = max(series.size // max(1, full[0].size) for series in file.series)
    if count > 1:
        raise ImageError(f"{count} pages; one picture a file, or a volume as .npy or NIfTI")
    return full[0]


def _bits(page: Any) -> int:
    tag = page.tags.get("BitsPerSample")
    depths = {int(bits) for bits in np.atleast_1d(tag.value)} if tag else {1}
    if len(depths) > 1:
        raise ImageError(f"TIFF of samples of {' and '.join(map(str, sorted(depths)))} bits; save it with equal ones")
    return depths.pop()


def _require_known(page: Any, kind: int) -> None:
    """Raises ImageError for kinds of pictures that are not read."""
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    require_picture(page.imagewidth * page.imagelength)
    require_voxels((page.imagelength, page.imagewidth, samples), "TIFF")
    if photometric not in (_WHITE, _BLACK, _RGB, _PALETTE, _YCBCR):
        found = _REFUSED.get(photometric, f"photometric interpretation {photometric}")
        raise ImageError(f"TIFF of {found}; save it as grey or RGB")
    if photometric == _YCBCR and int(page.compression) not in _JPEG:
        raise ImageError("TIFF of luminance and chrominance (YCbCr) that is no JPEG; save it as RGB")
    if kind not in (_UNSIGNED, _SIGNED, _FLOAT):
        raise ImageError("TIFF of complex or undefined numbers; pixels must be real numbers")
    own = 3 if photometric in (_RGB, _YCBCR) else 1
    alpha = samples == own + 1 and (own == 3 or int(page.extrasamples[0]) in (1, 2))
    if samples != own and not alpha:
        raise ImageError(
            f"TIFF of {samples} samples a pixel, and {own} or {own} and alpha are read; save it as grey or RGB"
        )


def _require_lossless(page: Any) -> None:
    """Raises ImageError for masks whose numbers may not be those that were drawn."""
    if int(page.photometric) == _WHITE:
        raise ImageError("a TIFF whose 0 is shown white, so that its numbers can be meant two ways; save it as PNG")
    if int(page.compression) in _JPEG:
        raise ImageError("compressed as JPEG, which changes class numbers; save the original as PNG")


def _require_whole(page: Any, size: int) -> None:
    ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > size:
        raise ImageError(f"truncated or unreadable (TIFF): its pixels end at byte {max(ends):,}, the file at {size:,}")


def _decoded(page: Any) -> np.ndarray | None:
    """(h, w), (h, w, c) or (c, h, w) as stored; None where tifffile knows no decoder."""
    if int(page.compression) in _JPEG:
        return None
    try:
        return np.asarray(page.asarray(maxworkers=1))
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            return None
        raise


def _shown(stored: np.ndarray, page: Any, bits: int, kind: int, mask: bool) -> np.ndarray:
    """(c, h, w), with the meaning of the photometric interpretation."""
    samples = without_alpha(stored if stored.ndim == 3 else stored[None], mask)
    if int(page.photometric) == _PALETTE and not mask:
        table = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap  # of 16 bits; some programs write 8
        return np.asarray(table[:, samples[0].astype(np.intp)])
    return _mirrored(samples, bits, kind) if int(page.photometric) == _WHITE else samples


def _mirrored(samples: np.ndarray, bits: int, kind: int) -> np.ndarray:
    """Within its bits, not its own range: pictures of one camera stay comparable."""
    if kind == _FLOAT:
        return -samples
    return (-1 if kind == _SIGNED else 2**bits - 1) - samples.astype(np.int64 if bits < 64 else np.float64)


def _by_pillow(path: Path, page: Any, bits: int, kind: int, mask: bool) -> np.ndarray:
    """Upright already, which Pillow does of TIFF alone."""
    from PIL import Image, UnidentifiedImageError

    colour = int(page.photometric) in (_RGB, _YCBCR)
    try:
        if (bits, kind) not in _KEPT_BY_PILLOW or (colour and bits != 8):
            raise UnidentifiedImageError
        with Image.open(path, formats=("TIFF",)) as picture:
            samples = without_alpha(samples_of(picture, bits, mask), mask)
            turned = picture.mode in ("1", "L")  # Pillow has mirrored these
    except UnidentifiedImageError:
        name = getattr(page.compression, "name", page.compression)
        what = f"{bits} bits{' a colour' * colour} with compression {name}"
        raise ImageError(
            f"TIFF of {what} is not read; save it with 8 or 16 bits and deflate, or uncompressed"
        ) from None
    if (bits, kind) == (32, _UNSIGNED):
        samples = samples.view(np.uint32)
    return _mirrored(samples, bits, kind) if int(page.photometric) == _WHITE and not turned else samples
