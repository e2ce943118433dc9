"""Pixels on the page equal the samples, and damaged samples never stop the report."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedcore.report.sections.images import albums, tile


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def save(folder: Path, **arrays: np.ndarray) -> Path:
    site = folder / "sites" / "a"
    site.mkdir(parents=True)
    np.savez(site / "samples.npz", **arrays)
    return folder


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


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_damaged_samples_are_a_gap(tmp_path: Path, text: bytes) -> None:
    (save(tmp_path, images=np.zeros(1)) / "sites" / "a" / "samples.npz").write_bytes(text)
    gaps: list[str] = []
    assert albums(tmp_path, ["a"], gaps) == ()
    assert gaps == ["The samples of a cannot be read."]


def test_pickled_or_misshapen_samples_are_a_gap(tmp_path: Path) -> None:
    for at, images in enumerate((np.array([{}], dtype=object), np.zeros((2, 3)), np.zeros(()))):
        gaps: list[str] = []
        assert albums(save(tmp_path / str(at), images=images), ["a"], gaps) == ()
        assert gaps == ["The samples of a cannot be read."]


def test_views_may_have_another_size_or_be_missing(tmp_path: Path) -> None:
    images = np.zeros((2, 1, 8, 8), dtype=np.float16)
    (bare,) = albums(save(tmp_path / "x", images=images), ["a"], [])
    (seen,) = albums(save(tmp_path / "y", images=images, views=np.zeros((2, 3, 1, 4, 4), np.float16)), ["a"], [])
    assert [len(row) for row in bare.rows] == [1, 1]
    assert [len(row) for row in seen.rows] == [4, 4]


def test_a_sites_name_cannot_lead_out_of_the_run(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", images=np.zeros((1, 1, 4, 4), dtype=np.float16))
    (tmp_path / "run" / "sites").mkdir(parents=True)
    assert albums(tmp_path / "run", ["../../elsewhere/sites/a", str(tmp_path / "elsewhere/sites/a")], []) == ()
