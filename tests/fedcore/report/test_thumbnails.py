"""Pixels on the page equal those of the image."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from fedcore.report.thumbnails import tile


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_grey_values_span_black_to_white_and_nan_is_grey() -> None:
    image = np.array([[[-1.0, 1.0, 0.0, np.nan, 9.0]]], dtype=np.float32)
    assert decode(tile(image)).tolist() == [[0, 255, 128, 128, 255]]


def test_three_channels_are_colours_and_other_counts_show_the_first() -> None:
    colours = np.stack([np.full((4, 5), level, dtype=np.float32) for level in (-1.0, 1.0, -1.0)])
    assert decode(tile(colours))[0, 0].tolist() == [0, 255, 0]
    assert decode(tile(colours[:2])).shape == (4, 5)


def test_a_volume_shows_its_three_middle_slices_in_squares() -> None:
    volume = np.full((1, 4, 6, 8), -1.0, dtype=np.float32)
    volume[0, 2, 3, 4] = 1.0
    strip = decode(tile(volume))
    assert strip.shape == (8, 24)
    assert [(strip[:, at : at + 8] == 255).sum() for at in (0, 8, 16)] == [1, 1, 1]


def test_large_images_are_shrunk() -> None:
    assert decode(tile(np.zeros((1, 500, 700), dtype=np.float32))).shape == (112, 157)
