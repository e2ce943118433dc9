"""PNG, JPEG, BMP and TIFF to arrays; the kind follows from the content, not from the name."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.io.limits import too_large
from fedcore.data.io.pictures.samples import samples_of, upright, without_alpha
from fedcore.data.io.pictures.tiff import is_greyscale_tiff, is_tiff, read_tiff

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Kind of file by suffix."""
_FORMATS = ("BMP", "JPEG", "PNG")
_ORIENTATION = 0x0112


def read_picture(path: Path, mask: bool = False) -> np.ndarray:
    """(c, h, w), the numbers as stored; gamma and colour profiles are not applied.

    Args:
        path: The file.
        mask: Read a palette as its indices, and reject files whose compression changes class numbers.
    """
    with path.open("rb") as stream:
        if is_tiff(stream):
            return read_tiff(path, mask)
        picture = _opened(stream)
        if picture.mode == "CMYK":
            raise ImageError("picture of printing inks (CMYK); save it as RGB")
        if (frames := getattr(picture, "n_frames", 1)) > 1 and picture.format == "PNG":
            raise ImageError(f"{frames} frames; save one picture per file, or a volume as .npy or NIfTI")
        if mask and picture.format in ("JPEG", "MPO"):
            raise ImageError("saved as JPEG, which changes class numbers; save the original as PNG")
        bits, colour = _png_header(stream) if picture.format == "PNG" else (8, 0)
        turn = picture.getexif().get(_ORIENTATION, 1)
        samples = _png_16_bit(stream, colour == 4) if bits == 16 and colour else samples_of(picture, bits, mask)
    return upright(without_alpha(samples, mask), turn)


def is_greyscale_picture(path: Path) -> bool:
    """From its header."""
    with path.open("rb") as stream:
        return is_greyscale_tiff(path) if is_tiff(stream) else _opened(stream).mode in ("1", "L", "LA", "I", "I;16")


def _opened(stream: IO[bytes]) -> Any:
    from PIL import Image, UnidentifiedImageError

    stream.seek(0)
    try:
        # The content decides, not the name; limited, since Pillow starts other programs for some kinds of file.
        return Image.open(stream, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise too_large() from None
    except UnidentifiedImageError:
        raise ImageError(_unknown(stream)) from None


def _png_header(stream: IO[bytes]) -> tuple[int, int]:
    """(bits per sample, colour type: 0 greyscale, 4 greyscale and alpha), from the chunk IHDR."""
    at = stream.tell()
    stream.seek(24)
    bits, colour = stream.read(2)
    stream.seek(at)
    return bits, colour


def _png_16_bit(stream: IO[bytes], greyscale: bool) -> np.ndarray:
    """(2, 3 or 4, h, w): 16-bit colour, or greyscale and alpha, of which Pillow keeps 8 bits.

    With the other byte order it keeps the lower 8 bits; greyscale and alpha are read as four samples of 8 bits.
    """
    if greyscale:
        halves = _unpacked(stream, "RGBA")
        upper, lower = halves[..., 0::2], halves[..., 1::2]
    else:
        upper, lower = (_unpacked(stream, f"{_opened(stream).mode};16{order}") for order in "BL")
    return np.moveaxis(upper.astype(np.uint16) << 8 | lower, -1, 0)


def _unpacked(stream: IO[bytes], raw_mode: str) -> np.ndarray:
    """(h, w, 3 or 4) of 8 bits, decoded by Pillow with the given raw mode."""
    picture = _opened(stream)
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
    return np.asarray(picture)


def _unknown(stream: IO[bytes]) -> str:
    """Why Pillow finds no picture in the file."""
    stream.seek(0)
    head = stream.read(1 << 20)
    if head[:2] == b"\xff\xd8" and (bits := _jpeg_bits(head)) not in (None, 8):
        return f"JPEG of {bits} bits per sample, only 8 are supported; save it as PNG or TIFF"
    known = head[:2] in (b"\xff\xd8", b"BM") or head[:4] == b"\x89PNG"
    why = "its header is damaged" if known else "its first bytes are not those of PNG, JPEG, BMP or TIFF"
    return f"truncated or unreadable: {why}"


def _jpeg_bits(head: bytes) -> int | None:
    """Bits per sample, from the start of frame (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 4 < len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return head[at + 4]
        at += 2 + length
    return None
