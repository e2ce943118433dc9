"""Contact sheets: a picture of many images side by side."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.site.figures import axial
from fedgen.synthetic.image_files import png

MOST, COLUMNS = 64, 8
GAP = 2


def contact_sheet(images: Float[Tensor, "n c *space"]) -> bytes:
    """A PNG of up to 64 images in [-1, 1], spread evenly over those given; of a volume, its middle axial slice.

    Of channels that are no colours (2, or 4), the first.
    """
    chosen = images[torch.linspace(0, len(images) - 1, min(MOST, len(images))).long()].float()
    flat = chosen if chosen.dim() == 4 else axial(chosen, chosen.shape[-1] // 2)
    flat = flat if flat.shape[1] in (1, 3) else flat[:, :1]
    rows, columns = ceil(len(flat) / COLUMNS), min(COLUMNS, len(flat))
    high, wide = flat.shape[2] + GAP, flat.shape[3] + GAP
    sheet = torch.ones(flat.shape[1], rows * high - GAP, columns * wide - GAP)
    for at, image in enumerate(flat):
        top, left = at // columns * high, at % columns * wide
        sheet[:, top : top + high - GAP, left : left + wide - GAP] = image
    return png(((sheet.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8))
