from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedcore.data.io.error import ImageError
from fedcore.data.io.readers import read_image
from tests.fedcore.data.io.dicom.files import GREYSCALE, dicom

COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)


def saved(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def error_of(path: Path, read=read_image) -> str:
    with pytest.raises(ImageError) as caught:
        read(path)
    assert path.name not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_greyscale_pictures_are_upright(tmp_path: Path, suffix: str) -> None:
    image = read_image(saved(tmp_path / f"a.{suffix}", GREYSCALE))
    assert image.dtype == np.float32
    assert image.tolist() == [GREYSCALE.tolist()]


@pytest.mark.parametrize(
    ("suffix", "dtype", "high"),
    [
        ("png", np.uint16, 60000),
        ("tif", np.uint16, 60000),
        ("tif", np.int32, -70000),
        ("tif", np.float32, 0.25),
    ],
)
def test_pictures_of_many_bits_keep_their_values(tmp_path: Path, suffix: str, dtype: type, high: float) -> None:
    array = GREYSCALE.astype(dtype)
    array[0, 1] = high
    assert read_image(saved(tmp_path / f"a.{suffix}", array))[0].tolist() == array.astype(np.float32).tolist()


def test_colour_alpha_palette_and_bits_are_read(tmp_path: Path) -> None:
    expected = np.moveaxis(COLOUR, -1, 0).tolist()
    assert read_image(saved(tmp_path / "rgb.png", COLOUR)).tolist() == expected
    alpha = np.dstack([COLOUR, np.full((3, 4), 7, np.uint8)])
    assert read_image(saved(tmp_path / "rgba.png", alpha)).tolist() == expected
    assert read_image(saved(tmp_path / "p.png", COLOUR, "P")).shape == (3, 3, 4)
    assert read_image(saved(tmp_path / "la.png", GREYSCALE, "LA")).tolist() == [GREYSCALE.tolist()]
    assert read_image(saved(tmp_path / "1.png", GREYSCALE > 5)).tolist() == [(GREYSCALE > 5).astype(float).tolist()]


def test_jpeg_is_upright_and_close(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 24 * 16).reshape(24, 16).astype(np.uint8)
    image = read_image(saved(tmp_path / "a.jpg", ramp))
    assert image.shape == (1, 24, 16)
    assert np.abs(image[0] - ramp).max() < 8


def test_an_item_of_an_npz_is_read(tmp_path: Path) -> None:
    stack = np.arange(2 * 5 * 6 * 3, dtype=np.uint8).reshape(2, 5, 6, 3)
    np.savez_compressed(tmp_path / "a.npz", train_images=stack)
    image = read_image(tmp_path / "a.npz", "train_images", 1)
    assert image.tolist() == np.moveaxis(stack[1], -1, 0).astype(float).tolist()


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_is_reoriented_to_ras(tmp_path: Path, suffix: str) -> None:
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"ras.{suffix}")
    nib.save(nib.Nifti1Image(volume[::-1, ::-1], np.diag([-1, -1, 1, 1])), tmp_path / f"lps.{suffix}")
    swapped = np.eye(4)[[2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), swapped), tmp_path / f"sar.{suffix}")
    for name in ("ras", "lps", "sar"):
        assert read_image(tmp_path / f"{name}.{suffix}").tolist() == [volume.tolist()]


def test_channels_slices_and_scaling_of_nifti(tmp_path: Path) -> None:
    def read(shape: tuple[int, ...]) -> tuple[int, ...]:
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "a.nii")
        return read_image(tmp_path / "a.nii").shape

    assert read((5, 6, 7, 2)) == (2, 5, 6, 7)
    assert read((5, 6, 1)) == (1, 6, 5)  # (x, y) as a viewer shows it
    assert read((5, 6)) == (1, 6, 5)
    with pytest.raises(ImageError, match="at most 4 channels"):
        read((5, 6, 7, 9))
    scaled = nib.Nifti1Image(np.full((2, 2, 2), 3, np.int16), np.eye(4))
    scaled.header.set_slope_inter(2, -1)
    nib.save(scaled, tmp_path / "s.nii")
    assert (read_image(tmp_path / "s.nii") == 3 * 2 - 1).all()


def test_files_of_nibabel_are_read() -> None:
    folder = Path(nib.__file__).parent / "tests" / "data"
    assert read_image(folder / "anatomical.nii").shape == (1, 33, 41, 25)
    assert read_image(folder / "example4d.nii.gz").shape[0] == 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "nii.gz", "nii", "npy", "dcm"])
def test_damaged_files_are_an_error(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    if suffix.startswith("nii"):
        nib.save(nib.Nifti1Image(noise[..., None], np.eye(4)), path)
    elif suffix == "npy":
        np.save(path, noise)
    elif suffix == "dcm":
        dicom(path, noise)
    else:
        saved(path, noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated or unreadable" in error_of(path)
    path.write_bytes(b"GIF89a, or anything else" * 20)
    assert "truncated or unreadable" in error_of(path)
    path.write_bytes(b"")
    assert error_of(path) == "zero bytes"


def test_pixels_that_are_not_an_image_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def error_for(array: np.ndarray) -> str:
        np.save(path, array)
        return error_of(path)

    bad = np.full((64, 64), 7, np.float32)
    bad[0, :11], bad[2, 0] = np.nan, 3
    assert error_for(bad) == "NaN pixels (11 of 4096); data.nan minimum replaces them by the image's least value"
    assert np.array_equal(read_image(path, nan="minimum")[0], np.where(np.isnan(bad), 3, bad))
    bad[1, 0] = -np.inf
    assert error_for(bad) == "infinite pixels, or above 3.4e38 (1 of 4096)"
    assert "infinite" in error_of(path, partial(read_image, nan="minimum"))
    assert error_for(np.full((2, 2), 1e300)) == "infinite pixels, or above 3.4e38 (4 of 4)"
    assert error_for(np.full((2, 2), np.nan)) == "all pixels are NaN"
    assert error_for(np.zeros((0, 5))) == "empty image (0 pixels)"
    assert error_for(np.zeros((2, 2), complex)) == "pixels must be real numbers, got complex128"
    assert "neither a picture nor a volume" in error_for(np.zeros(5))
    assert "unreadable" in error_for(np.array([None, {}]))
    assert "unknown kind of file" in error_of(tmp_path / "a.txt")
    (tmp_path / "scan.Doe_Jane_1961").write_text("?")
    assert "oe" not in error_of(tmp_path / "scan.Doe_Jane_1961")  # the suffix may be a patient's name


def test_threads_do_not_change_the_warning_filters(tmp_path: Path) -> None:
    paths = [dicom(tmp_path / f"{at}.dcm", GREYSCALE) for at in range(20)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, paths))
    assert list(warnings.filters) == before
