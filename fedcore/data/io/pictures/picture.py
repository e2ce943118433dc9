"""PNG, JPEG, BMP and TIFF to arrays, by what they are and not by their names."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.io.limits import too_large
from fedcore.data.io.pictures.samples import samples_of, upright, without_alpha
from fedcore.data.io.pictures.tiff import is_grey_tiff, is_tiff, read_tiff

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Kind of file by the end of its name."""
_FORMATS = ("BMP", "JPEG", "PNG")
_ORIENTATION = 0x0112


def read_picture(path: Path, mask: bool = False) -> np.ndarray:
    """(c, h, w), the numbers as stored; gamma and colour profiles are not applied.

    A mask's palette gives its indices, and what does not keep class numbers is refused.
    """
    with path.open("rb") as stream:
        if is_tiff(stream):
            return read_tiff(path, mask)
        picture = _opened(stream)
        if picture.mode == "CMYK":
            raise ImageError("picture of printing inks (CMYK); save it as RGB")
        if (frames := getattr(picture, "n_frames", 1)) > 1 and picture.format == "PNG":
            raise ImageError(f"{frames} frames; one picture a file, or a volume as .npy or NIfTI")
        if mask and picture.format in ("JPEG", "MPO"):
            raise ImageError("saved as JPEG, which changes class numbers; save the original as PNG")
        bits, colour = _png_header(stream) if picture.format == "PNG" else (8, 0)
        turn = picture.getexif().get(_ORIENTATION, 1)
        samples = _deep_png(stream, colour == 4) if bits == 16 and colour else samples_of(picture, bits, mask)
    return upright(without_alpha(samples, mask), turn)


def is_grey_picture(path: Path) -> bool:
    """By its header."""
    with path.open("rb") as stream:
        return is_grey_tiff(path) if is_tiff(stream) else _opened(stream).mode in ("1", "L", "LA", "I", "I;16")


def _opened(stream: IO[bytes]) -> Any:
    from PIL import Image, UnidentifiedImageError

    stream.seek(0)
    try:
        # By content a file may be what its name does not say: Pillow knows kinds that start other programs.
        return Image.open(stream, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise too_large() from None
    except UnidentifiedImageError:
        raise ImageError(_unknown(stream)) from None


def _png_header(stream: IO[bytes]) -> tuple[int, int]:
    """(bits of a sample, colour type, which is 0 of grey and 4 of grey and alpha): bytes of the chunk IHDR."""
    at = stream.tell()
    stream.seek(24)
    bits, colour = stream.read(2)
    stream.seek(at)
    return bits, colour


def _deep_png(stream: IO[bytes], grey: bool) -> np.ndarray:
    """(2, 3 or 4, h, w): 16 bits of colour, or of grey and alpha, of which Pillow keeps 8.

    Asked for the other order of bytes it keeps the lower 8; grey and alpha it takes for four samples of 8 bits.
    """
    if grey:
        halves = _unpacked(stream, "RGBA")
        upper, lower = halves[..., 0::2], halves[..., 1::2]
    else:
        upper, lower = (_unpacked(stream, f"{_opened(stream).mode};16{order}") for order in "BL")
    return np.moveaxis(upper.astype(np.uint16) << 8 | lower, -1, 0)


def _unpacked(stream: IO[bytes], raw_mode: str) -> np.ndarray:
    """(h, w, 3 or 4) of 8 bits, by how Pillow is told that the file packs them."""
    picture = _opened(stream)
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
    return np.asarray(picture)


def _unknown(stream: IO[bytes]) -> str:
    """Why Pillow knows no picture in the file."""
    stream.seek(0)
    head = stream.read(1 << 20)
    if head[:2] == b"\xff\xd8" and (bits := _jpeg_bits(head)) not in (None, 8):
        return f"JPEG of {bits} bits a sample, and 8 are read; save it as PNG or TIFF"
    known = head[:2] in (b"\xff\xd8", b"BM") or head[:4] == b"\x89PNG"
    why = "its header is damaged" if known else "no PNG, JPEG, BMP or TIFF by its first bytes"
    return f"truncated or unreadable: {why}"


def _jpeg_bits(head: bytes) -> int | None:
    """Bits of a sample, which stand in the start of frame (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 4 < len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return head[at + 4]
        at += 2 + length
    return None
