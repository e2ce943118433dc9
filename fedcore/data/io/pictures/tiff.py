"""TIFF files of one picture to arrays.

By tifffile, which keeps every depth and sign. Compressions that it cannot decode alone (LZW, JPEG, fax) are read by
Pillow, if Pillow keeps the numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.io.limits import require_picture, require_voxels
from fedcore.data.io.pictures.samples import samples_of, upright, without_alpha

_WHITE, _BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_UNSUPPORTED = {4: "a transparency mask", 5: "printing inks (CMYK)", 8: "CIELAB colours", 9: "CIELAB colours",
            10: "CIELAB colours", 32803: "a colour filter", 32844: "LogL", 32845: "LogLuv"}  # fmt: skip
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_JPEG = (6, 7, 33007, 34892)
"""JPEG compressions."""
_KEPT_BY_PILLOW = {(bits, _UNSIGNED) for bits in (1, 2, 4, 8, 12, 16, 32)} | {(16, 2), (32, _SIGNED), (32, _FLOAT)}
"""Bits and kind of greyscale samples that Pillow returns unchanged; of colours it keeps 8 bits."""


def is_tiff(stream: IO[bytes]) -> bool:
    """From the first bytes (BigTIFF too); the stream is left at its start."""
    head = stream.read(4)
    stream.seek(0)
    return head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(path: Path, mask: bool = False) -> np.ndarray:
    """(c, h, w), the numbers as stored, but large is bright at every depth.

    Min-is-white files, whose 0 is brightest, are inverted within their bits, floats around 0. Alpha is removed; a
    palette becomes RGB or, for a mask, its indices.
    """
    from tifffile import TiffFile

    with TiffFile(path) as file:
        page = _only_page(file)
        bits, kind = _bits(page), int(page.sampleformat)
        _require_supported(page, kind)
        if mask:
            _require_lossless(page)
        _require_complete(page, path.stat().st_size)
        if (stored := _decoded(page)) is None:
            return _by_pillow(path, page, bits, kind, mask)
        tag = page.tags.get("Orientation")
        displayed = _displayed(np.moveaxis(stored, -1, 0) if page.axes == "YXS" else stored, page, bits, kind, mask)
        return upright(displayed, int(tag.value) if tag else 1)


def is_greyscale_tiff(path: Path) -> bool:
    """From its header."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        return int(file.pages.first.photometric) in (_WHITE, _BLACK)


def _only_page(file: Any) -> Any:
    """Raises ImageError for stacks; smaller copies of the picture in the file (thumbnails, pyramids) are allowed."""
    full = [page for page in file.pages if not int(page.keyframe.subfiletype) & 1]
    if not full:
        raise ImageError("truncated or unreadable (TIFF): it contains no picture")
    count = len(full) * int(full[0].imagedepth)
    if count == 1 and (file.is_imagej or file.is_shaped):  # which may store a whole stack with one header
        count = max(series.size // max(1, full[0].size) for series in file.series)
    if count > 1:
        raise ImageError(f"{count} pages; save one picture per file, or a volume as .npy or NIfTI")
    return full[0]


def _bits(page: Any) -> int:
    tag = page.tags.get("BitsPerSample")
    depths = {int(bits) for bits in np.atleast_1d(tag.value)} if tag else {1}
    if len(depths) > 1:
        raise ImageError(
            f"TIFF of samples of {' and '.join(map(str, sorted(depths)))} bits; save it with an equal number"
        )
    return depths.pop()


def _require_supported(page: Any, kind: int) -> None:
    """Raises ImageError for unsupported kinds of pictures."""
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    require_picture(page.imagewidth * page.imagelength)
    require_voxels((page.imagelength, page.imagewidth, samples), "TIFF")
    if photometric not in (_WHITE, _BLACK, _RGB, _PALETTE, _YCBCR):
        found = _UNSUPPORTED.get(photometric, f"photometric interpretation {photometric}")
        raise ImageError(f"TIFF of {found}; save it as greyscale or RGB")
    if photometric == _YCBCR and int(page.compression) not in _JPEG:
        raise ImageError("TIFF of luminance and chrominance (YCbCr) without JPEG compression; save it as RGB")
    if kind not in (_UNSIGNED, _SIGNED, _FLOAT):
        raise ImageError("TIFF of complex or undefined numbers; pixels must be real numbers")
    own = 3 if photometric in (_RGB, _YCBCR) else 1
    alpha = samples == own + 1 and (own == 3 or int(page.extrasamples[0]) in (1, 2))
    if samples != own and not alpha:
        raise ImageError(
            f"TIFF of {samples} samples per pixel, only {own}, or {own} and alpha, are supported; save it as greyscale "
            "or RGB"
        )


def _require_lossless(page: Any) -> None:
    """Raises ImageError for masks whose numbers may have changed when they were saved."""
    if int(page.photometric) == _WHITE:
        raise ImageError("a TIFF whose 0 is white, so that its numbers are ambiguous; save it as PNG")
    if int(page.compression) in _JPEG:
        raise ImageError("compressed as JPEG, which changes class numbers; save the original as PNG")


def _require_complete(page: Any, size: int) -> None:
    ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > size:
        raise ImageError(f"truncated or unreadable (TIFF): its pixels end at byte {max(ends):,}, the file at {size:,}")


def _decoded(page: Any) -> np.ndarray | None:
    """(h, w), (h, w, c) or (c, h, w) as stored; None if tifffile has no decoder."""
    if int(page.compression) in _JPEG:
        return None
    try:
        return np.asarray(page.asarray(maxworkers=1))
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            return None
        raise


def _displayed(stored: np.ndarray, page: Any, bits: int, kind: int, mask: bool) -> np.ndarray:
    """(c, h, w), with the meaning of the photometric interpretation."""
    samples = without_alpha(stored if stored.ndim == 3 else stored[None], mask)
    if int(page.photometric) == _PALETTE and not mask:
        table = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap  # 16 bits, but some programs write 8
        return np.asarray(table[:, samples[0].astype(np.intp)])
    return _inverted(samples, bits, kind) if int(page.photometric) == _WHITE else samples


def _inverted(samples: np.ndarray, bits: int, kind: int) -> np.ndarray:
    """Within the range of its bits, not of its pixels, so that pictures of one camera stay comparable."""
    if kind == _FLOAT:
        return -samples
    return (-1 if kind == _SIGNED else 2**bits - 1) - samples.astype(np.int64 if bits < 64 else np.float64)


def _by_pillow(path: Path, page: Any, bits: int, kind: int, mask: bool) -> np.ndarray:
    """Already upright: Pillow does that for TIFF."""
    from PIL import Image, UnidentifiedImageError

    colour = int(page.photometric) in (_RGB, _YCBCR)
    try:
        if (bits, kind) not in _KEPT_BY_PILLOW or (colour and bits != 8):
            raise UnidentifiedImageError
        with Image.open(path, formats=("TIFF",)) as picture:
            samples = without_alpha(samples_of(picture, bits, mask), mask)
            inverted = picture.mode in ("1", "L")  # by Pillow
    except UnidentifiedImageError:
        name = getattr(page.compression, "name", page.compression)
        what = f"{bits} bits{' per colour' * colour} with compression {name}"
        raise ImageError(
            f"TIFF of {what} is not supported; save it with 8 or 16 bits and deflate, or uncompressed"
        ) from None
    if (bits, kind) == (32, _UNSIGNED):
        samples = samples.view(np.uint32)
    return _inverted(samples, bits, kind) if int(page.photometric) == _WHITE and not inverted else samples
