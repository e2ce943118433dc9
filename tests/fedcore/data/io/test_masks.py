from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from fedcore.data.io.class_numbers import as_classes
from fedcore.data.io.error import ImageError
from fedcore.data.io.masks import read_mask

BASE = np.zeros((12, 16), np.uint8)
BASE[2:6, 3:9], BASE[7:10, 5:12] = 1, 2
DISC = ((np.indices((64, 64)) - 30) ** 2).sum(0) < 300


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_mask(path)
    return str(caught.value)


def kept(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array)
    return read_mask(path)


def test_numbers_are_kept_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    assert np.array_equal(kept(path, BASE == 1), BASE == 1)
    assert np.array_equal(kept(path, BASE * 3.0), BASE * 3)
    assert np.array_equal(kept(path, np.where(BASE, 255, 0)), np.where(BASE, 255, 0))
    Image.fromarray(BASE.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    assert np.array_equal(read_mask(tmp_path / "deep.png"), BASE * 100)
    tifffile.imwrite(tmp_path / "f.tif", BASE.astype(np.float32))
    assert np.array_equal(read_mask(tmp_path / "f.tif"), BASE)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_all_modes_of_pictures_are_read(tmp_path: Path, mode: str, suffix: str) -> None:
    """A palette gives its indices, colours that are equal a number, and a bit 0 and 1."""
    stored = (BASE > 0).astype(np.uint8) * 255 if mode == "1" else BASE
    Image.fromarray(stored).convert(mode).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"a.{suffix}"), BASE > 0 if mode == "1" else BASE)


def test_a_coloured_palette_is_read_as_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(BASE).convert("P")
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    for suffix in ("png", "tif", "bmp"):
        picture.save(tmp_path / f"a.{suffix}")
        assert np.array_equal(read_mask(tmp_path / f"a.{suffix}"), BASE)


@pytest.mark.parametrize("values", [(0.99999994, 1.9999999), (0.99607849, 2.00000012), (0.9882, 2.0235)])
def test_numbers_close_to_whole_ones_are_rounded(tmp_path: Path, values: tuple[float, float]) -> None:
    """By float arithmetic, by nibabel's 8 bits and a slope, and as Colin27 was published."""
    volume = np.select([BASE == 1, BASE == 2], values).astype(np.float32)[..., None].repeat(3, -1)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(read_mask(tmp_path / "a.nii.gz")[..., 0], BASE)


@pytest.mark.parametrize(("values", "text"), [
    ((-1, 1), "found -1; number the classes from 0"),
    ((1003, 2035), "found 1003, 2035; number the classes"),
    ((1, 65535), "found 65535; number the classes"),
    ((1, 0.5), "found 0.5; resample masks by nearest neighbour"),
    ((1, np.nan), "found nan; give every pixel a number"),
    ((1, np.inf), "found inf; give every pixel a number"),
])  # fmt: skip
def test_other_numbers_are_an_error_that_names_them(tmp_path: Path, values: tuple[float, float], text: str) -> None:
    np.save(tmp_path / "a.npy", np.select([BASE == 1, BASE == 2], values))
    assert error_of(tmp_path / "a.npy").startswith(f"values must be whole numbers in 0..255, {text}")


def test_at_most_five_numbers_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(300, 312).reshape(3, 4))
    assert "found 300, 301, 302, 303, 304 and 7 more" in error_of(tmp_path / "a.npy")


def test_masks_saved_as_jpeg_are_an_error(tmp_path: Path) -> None:
    picture = Image.fromarray(DISC.astype(np.uint8) * 255)
    picture.save(tmp_path / "a.jpg", quality=100)
    assert error_of(tmp_path / "a.jpg").startswith("saved as JPEG")
    picture.save(tmp_path / "a.tif", compression="jpeg")
    assert error_of(tmp_path / "a.tif").startswith("compressed as JPEG")
    assert error_of((tmp_path / "a.jpg").rename(tmp_path / "a.png")).startswith("saved as JPEG")


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_masks_that_were_saved_as_jpeg_before_are_an_error(tmp_path: Path, quality: int) -> None:
    Image.fromarray(DISC.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=quality)
    with Image.open(tmp_path / "a.jpg") as picture:
        picture.save(tmp_path / "a.png")
    assert "nowhere in 2 x 2 pixels, as after smoothing, resampling or JPEG" in error_of(tmp_path / "a.png")


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("side", [24, 100])
def test_resampled_masks_are_an_error(tmp_path: Path, how: Image.Resampling, side: int) -> None:
    picture = Image.fromarray(DISC.astype(np.uint8) * 255)
    picture.resize((side, side), how).save(tmp_path / "a.png")
    assert "2 x 2 pixels" in error_of(tmp_path / "a.png")
    picture.resize((side, side), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    assert set(np.unique(read_mask(tmp_path / "a.png"))) == {0, 255}


def test_smoothed_masks_are_an_error(tmp_path: Path) -> None:
    volume = np.zeros((10, 20, 20))
    volume[3:7, 5:15, 5:15] = 255
    np.save(tmp_path / "a.npy", ndimage.gaussian_filter(volume, 1).astype(np.uint8))
    assert "2 x 2 pixels" in error_of(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(48, 48), (12, 32, 32)])
def test_many_classes_are_allowed(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A map of 100 regions, each of pixels that lie nearest to its own seed."""
    seeds = np.zeros(shape, int)
    seeds.flat[np.random.default_rng(0).permutation(seeds.size)[:100]] = np.arange(1, 101)
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    regions = seeds[tuple(nearest)]
    assert np.array_equal(kept(tmp_path / "a.npy", regions), regions)


def test_landmarks_are_allowed(tmp_path: Path) -> None:
    """Each is a single pixel."""
    points = np.zeros((40, 40), np.uint8)
    points[2:26, 7] = np.arange(1, 25)
    assert np.array_equal(kept(tmp_path / "a.npy", points), points)


def test_a_picture_is_not_a_mask(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "a.png")
    assert "nowhere in 2 x 2 pixels" in error_of(tmp_path / "a.png")


def test_unreadable_masks_are_an_error(tmp_path: Path) -> None:
    alpha = np.full((12, 16, 4), 255, np.uint8)
    alpha[..., 3] = BASE
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert "is in the alpha channel" in error_of(tmp_path / "alpha.png")
    tifffile.imwrite(tmp_path / "white.tif", BASE, photometric="miniswhite")
    assert "0 is white" in error_of(tmp_path / "white.tif")
    (tmp_path / "empty.png").touch()
    assert error_of(tmp_path / "empty.png") == "zero bytes"
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG and no more")
    assert "its header is damaged" in error_of(tmp_path / "damaged.png")
    np.save(tmp_path / "a.npy", np.zeros((0, 4)))
    assert error_of(tmp_path / "a.npy") == "empty (0 pixels)"
    (tmp_path / "a.npy").unlink()
    assert "not readable" in error_of(tmp_path / "a.npy")


def test_255_is_class_1_or_not_annotated() -> None:
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    assert as_classes(mask, "unlabelled").tolist() == [[0, 1, 2, 255]]
    assert as_classes(mask, "class").tolist() == [[0, 1, 2, 1]]
    assert as_classes(mask, "class").dtype == np.uint8
