"""Contact sheets: a picture of many images side by side."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.site.figures import axial
from fedgen.synthetic.image_files import png

MAX_IMAGES, COLUMNS = 64, 8
GAP = 2
"""Pixels between images."""


def contact_sheet(images: Float[Tensor, "n c *space"]) -> bytes:
    """A PNG of up to 64 images in [-1, 1], spread evenly over those given; of a volume, its middle axial slice.

    Of channels that are no colours (2, or 4), the first.
    """
    chosen = images[torch.linspace(0, len(images) - 1, min(MAX_IMAGES, len(images))).long()].float()
    flat = chosen if chosen.dim() == 4 else axial(chosen, chosen.shape[-1] // 2)
    flat = flat if flat.shape[1] in (1, 3) else flat[:, :1]
    rows, columns = ceil(len(flat) / COLUMNS), min(COLUMNS, len(flat))
    row_height, column_width = flat.shape[2] + GAP, flat.shape[3] + GAP
    sheet = torch.ones(flat.shape[1], rows * row_height - GAP, columns * column_width - GAP)
    for number, image in enumerate(flat):
        top, left = number // columns * row_height, number % columns * column_width
        sheet[:, top : top + row_height - GAP, left : left + column_width - GAP] = image
    return png(((sheet.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8))
