from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from fedgen.releases.contact_sheet import GAP, contact_sheet


def levels(images: torch.Tensor) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(contact_sheet(images))))


def test_images_stand_side_by_side_in_order() -> None:
    images = torch.linspace(-1, 1, 10).view(10, 1, 1, 1).expand(10, 1, 4, 6)
    sheet = levels(images)
    assert sheet.shape == (2 * 4 + GAP, 8 * 6 + 7 * GAP)
    assert [int(sheet[i // 8 * (4 + GAP), i % 8 * (6 + GAP)]) for i in range(10)] == [
        round((float(x) + 1) * 127.5) for x in torch.linspace(-1, 1, 10)
    ]


def test_64_of_many_images_are_shown_and_the_middle_slice_of_a_volume() -> None:
    assert levels(torch.zeros(200, 3, 4, 4)).shape == (8 * 4 + 7 * GAP, 8 * 4 + 7 * GAP, 3)
    volume = torch.full((1, 1, 5, 4, 4), -1.0)
    volume[..., 2] = 1
    assert (levels(volume) == 255).all()
