from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.data.io.array import channels_first
from fedcore.data.io.error import ImageError
from fedcore.data.io.masks import read_mask
from fedcore.data.io.pictures.greyscale import known_greyscale
from fedcore.data.io.readers import read_image


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 6), (1, 5, 6)),
        ((5, 6, 1), (1, 5, 6)),
        ((5, 6, 3), (3, 5, 6)),
        ((5, 6, 4), (3, 5, 6)),
        ((3, 5, 6), (3, 5, 6)),
        ((1, 5, 6), (1, 5, 6)),
        ((1, 5, 6, 1), (1, 5, 6)),
        ((1, 5, 6, 3), (3, 5, 6)),
        ((3, 1, 5, 6), (3, 5, 6)),
        ((3, 5, 1), (1, 3, 5)),
        ((3, 5, 3), (3, 3, 5)),
        ((2, 5, 6), (1, 2, 5, 6)),
        ((7, 5, 6), (1, 7, 5, 6)),
        ((7, 5, 6, 1), (1, 7, 5, 6)),
        ((7, 5, 3, 1), (1, 7, 5, 3)),
        ((1, 7, 5, 6), (1, 7, 5, 6)),
        ((1, 3, 5, 6), (1, 3, 5, 6)),
        ((7, 5, 6, 3), (3, 7, 5, 6)),
        ((1, 1, 7, 5, 6), (1, 7, 5, 6)),
        ((1, 7, 5, 6, 1), (1, 7, 5, 6)),
    ],
)
def test_channel_axes_follow_from_the_shape(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=float).reshape(shape)
    np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / "a.npy")
    assert image.shape == expected
    assert known_greyscale(tmp_path / "a.npy") == (expected[0] == 1)
    if array.size == image.size:
        channel_last = expected[0] == 3 and shape[-1] == 3
        assert np.array_equal(np.moveaxis(image, 0, -1) if channel_last else image, array.reshape(
            (*expected[1:], 3) if channel_last else expected))  # fmt: skip


def test_other_shapes_are_an_error() -> None:
    for shape in ((5,), (2, 5, 6, 7), (2, 3, 5, 6, 7)):
        with pytest.raises(ImageError, match=r"array of shape .* is neither a picture nor a volume"):
            channels_first(np.zeros(shape))


@pytest.mark.parametrize(("shape", "expected"), [
    ((5, 6), (5, 6)), ((1, 5, 6), (5, 6)), ((5, 6, 1), (5, 6)), ((5, 6, 3), (5, 6, 3)), ((1, 7, 5, 6), (7, 5, 6)),
    ((7, 5, 6, 1), (7, 5, 6)),
])  # fmt: skip
def test_masks_have_no_channels(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape) // 30 % 8
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(read_mask(tmp_path / "a.npy"), array.reshape(expected))
