"""PNG, JPEG, BMP and TIFF to arrays."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from fedcore.data.io.fault import ImageFault

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Kind of file by the end of its name."""


def read_picture(path: Path, palette: bool = False) -> np.ndarray:
    from monai.data.image_reader import PILReader
    from PIL import Image

    def upright(picture: Any) -> Any:
        from PIL import ImageOps

        if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
            raise ImageFault(f"{picture.n_frames} pages; one picture a file, or a volume as .npy or NIfTI")
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("1", "L", "I", "F", "RGB") or picture.mode.startswith("I;"):
            return picture
        if picture.mode == "P" and palette:
            return picture
        return picture.convert("L" if picture.mode in ("LA", "La") else "RGB")

    def opened(stream: IO[bytes]) -> Any:
        try:
            # By content a file may be what its name does not say: Pillow knows kinds that start other programs.
            return reader.read((stream,), formats=sorted({*PICTURES.values()}))
        except Image.DecompressionBombError:
            raise ImageFault(f"more pixels than a picture may have, {2 * (Image.MAX_IMAGE_PIXELS or 0):,}") from None

    reader = PILReader(converter=upright, reverse_indexing=False)  # keep rows first, as in the picture
    with path.open("rb") as stream:  # the reader itself would leave the file of a damaged picture open
        pixels = np.asarray(reader.get_data(opened(stream))[0])
    return np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]
