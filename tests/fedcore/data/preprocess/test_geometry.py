from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.data.preprocess.geometry import fit, fit_mask, full_size, inner_size, unfit
from fedcore.errors import InputError

shapes = st.one_of(
    st.tuples(*[st.integers(1, 30)] * 2),
    st.tuples(*[st.integers(1, 12)] * 3),
)


@given(shapes, st.integers(1, 20), st.sampled_from([1, 3]), st.sampled_from([1, 3]))
def test_shape_and_range_are_kept(shape: tuple[int, ...], side: int, have: int, want: int) -> None:
    image = np.random.default_rng(0).normal(size=(have, *shape)).astype(np.float32)
    size = full_size(side, len(shape))
    fitted = fit(image, size, want)
    assert fitted.shape == (want, *size)
    assert fitted.dtype == np.float32
    assert image.min() - 1e-5 <= fitted.min() <= fitted.max() <= image.max() + 1e-5


@given(shapes, st.integers(1, 20))
def test_a_mask_has_the_geometry_of_its_image(shape: tuple[int, ...], side: int) -> None:
    """A mask of ones covers just what is not padding: the image is 1, the padding its minimum of 0."""
    size = full_size(side, len(shape))
    image = np.ones((1, *shape), np.float32)
    marked = np.pad(image, [(0, 0)] + [(0, 0)] * len(shape))
    covered = fit_mask(np.ones(shape, np.uint8), size)
    inner = [np.flatnonzero(covered.any(axis=tuple(set(range(len(shape))) - {axis}))) for axis in range(len(shape))]
    assert fit(marked, size, 1).shape[1:] == covered.shape
    assert max(len(line) / n for line, n in zip(inner, size, strict=True)) == 1  # it touches two sides
    for line, n in zip(inner, size, strict=True):
        assert abs(line[0] - (n - 1 - line[-1])) <= 1  # and is centred on the others


def test_equal_size_is_untouched() -> None:
    image = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)
    assert (fit(image, (6, 8), 1) == image).all()


def test_padding_equals_a_hand_computed_case() -> None:
    image = np.array([[[5, 7]]], np.float32)
    assert fit(image, (4, 2), 1)[0].tolist() == [[5, 5], [5, 7], [5, 5], [5, 5]]
    assert fit_mask(np.array([[2, 3]], np.uint8), (4, 2)).tolist() == [[0, 0], [2, 3], [0, 0], [0, 0]]


def test_masks_are_resized_by_nearest_neighbour() -> None:
    mask = np.array([[1, 2], [3, 4]], np.uint8)
    assert fit_mask(mask, (4, 4)).tolist() == np.kron(mask, np.ones((2, 2), int)).tolist()


@pytest.mark.parametrize("dims", [2, 3])
def test_shrinking_averages(dims: int) -> None:
    """A checkerboard finer than the pixels becomes uniform; picking pixels would keep its black and white."""
    board = np.indices((32,) * dims).sum(axis=0)[None] % 2
    small = fit(board.astype(np.float32), (4,) * dims, 1)
    assert np.abs(small - 0.5).max() < 0.05


@given(shapes, st.integers(1, 20), st.floats(0.1, 9))
def test_equal_spacing_is_as_no_spacing(shape: tuple[int, ...], side: int, mm: float) -> None:
    size, off = full_size(side, len(shape)), mm * 1e-5  # an affine's rounding errors
    assert inner_size(shape, size, (mm + off, *[mm] * (len(shape) - 1))) == inner_size(shape, size)


def test_thick_slices_become_cubes() -> None:
    """A ball of 20 mm in slices 5 mm apart is as long as it is wide; its mask and the inverse agree."""
    mm = (5.0, 1.0, 1.0)
    places = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * each for n, each in zip((8, 40, 40), mm, strict=True)])
    ball = (np.sqrt(sum(p**2 for p in places)) < 10).transpose(1, 0, 2)
    image, mask = (
        fit(ball[None].astype(np.float32), (20, 20, 20), 1, mm)[0],
        fit_mask(ball.astype(np.uint8), (20,) * 3, mm),
    )
    for seen in (image > 0.5, mask > 0):
        lengths = [int(seen.any(axis=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)]
        assert max(lengths) - min(lengths) <= 2
        assert 9 <= min(lengths) <= max(lengths) <= 12
    back = unfit(torch.from_numpy(image)[None], (8, 40, 40), mm)[0] > 0.5
    assert back.shape == ball.shape
    assert (back.numpy() & ball).sum() / (back.numpy() | ball).sum() > 0.8


def test_channels() -> None:
    colour = np.array([10, 20, 30], np.float32).reshape(3, 1, 1)
    assert fit(colour, (1, 1), 1).item() == pytest.approx(2.99 + 11.74 + 3.42)
    assert fit(np.full((1, 2, 2), 4, np.float32), (2, 2), 3).tolist() == np.full((3, 2, 2), 4.0).tolist()
    with pytest.raises(ValueError, match="2 channels cannot become 3"):
        fit(np.zeros((2, 4, 4), np.float32), (4, 4), 3)


def test_full_size() -> None:
    assert full_size(5, 3) == (5, 5, 5)
    assert full_size([4, 6], 2) == (4, 6)
    for size, dims in (((4, 6), 3), (0, 2), ((4, -1), 2)):
        with pytest.raises(InputError, match="size must be"):
            full_size(size, dims)
