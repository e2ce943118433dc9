from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedcore.data.preprocess.scaling import FullRange, Percentiles, Scaling, Window
from fedcore.errors import InputError

whole_images = arrays(np.float32, (1, 9, 7), elements=st.integers(0, 255).map(float))


def filled(*values: float) -> np.ndarray:
    return np.array([[values]], dtype=np.float32)


@given(whole_images, st.integers(-9, 9), st.integers(-1000, 1000))
def test_percentiles_ignore_a_positive_affine_change(image: np.ndarray, power: int, offset: int) -> None:
    changed = image * np.float32(2.0**power) + np.float32(offset)
    assert np.allclose(Percentiles()(changed), Percentiles()(image), atol=1e-5)


@given(whole_images)
def test_percentiles_stay_in_range_and_in_order(image: np.ndarray) -> None:
    scaled = Percentiles()(image)
    assert scaled.dtype == np.float32
    assert -1 <= scaled.min() <= scaled.max() <= 1
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(scaled.ravel()[order]) >= 0).all()
    assert scaled.max() == (1 if np.ptp(image) else -1)


def test_flat_background_does_not_decide() -> None:
    """A brain that fills a hundredth of its frame is scaled as the brain alone."""
    brain = np.random.default_rng(0).uniform(100, 200, (1, 20, 20)).astype(np.float32)
    framed = np.zeros((1, 200, 200), np.float32)
    framed[:, 90:110, 90:110] = brain
    scaled = Percentiles()(framed)
    assert (scaled[framed == 0] == -1).all()
    assert np.abs(scaled[:, 90:110, 90:110] - Percentiles()(brain)).max() < 0.02


def test_outliers_are_clipped_and_constants_are_dark() -> None:
    image = np.append(np.arange(10_000.0), 1e7).astype(np.float32).reshape(1, 1, -1)
    scaled = Percentiles()(image)
    assert scaled[0, 0, 5000] == pytest.approx(0, abs=0.01)
    assert (Percentiles()(np.full((1, 4, 4), 7, np.float32)) == -1).all()
    assert Percentiles()(filled(3, 3, 8)).tolist() == [[[-1, -1, 1]]]


def test_window_and_full_range() -> None:
    assert Window(-1000.0, 1000.0)(filled(-3000, -1000, 0, 500, 2000)).tolist() == [[[-1, -1, 0, 0.5, 1]]]
    assert FullRange()(filled(0, 127.5, 255)).tolist() == [[[-1, 0, 1]]]
    assert FullRange(bits=16)(filled(65535)).item() == 1


def test_settings_are_checked() -> None:
    for wrong in (lambda: Window(5.0, 5.0), lambda: Percentiles(99.0, 1.0), lambda: FullRange(0)):
        with pytest.raises(InputError):
            wrong()
    assert all(isinstance(one, Scaling) for one in (Percentiles(), Window(0.0, 1.0), FullRange()))
