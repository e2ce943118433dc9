from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage

from fedcore.data.io.error import ImageError
from fedcore.data.io.header import read_header
from fedcore.data.io.readers import read_image
from tests.fedcore.data.io.forms import BODY, SPACE, blank, corners, save, series, stored

PLACES, ALONG, MM = corners("axial")


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    return str(caught.value)


def at_heights(folder: Path, *heights: float, **changed: Any) -> Path:
    """Slices at these positions along the normal, in mm."""
    body = np.zeros((*SPACE[:2], len(heights)), np.float32)
    places = [[0.0, 0.0, float(height)] for height in heights]
    folder.mkdir()
    for number, place in enumerate(places):
        tags = {"ImagePositionPatient": place, "ImageOrientationPatient": ALONG, "PixelSpacing": [1, 1],
                "InstanceNumber": number + 1}  # fmt: skip
        tags |= {name: value[number] if isinstance(value, list) else value for name, value in changed.items()}
        save(blank(CTImageStorage, *SPACE[1::-1], **tags), body[..., number].T, folder / f"{number}.dcm")
    return folder


@pytest.mark.parametrize(
    ("heights", "text"),
    [
        ((0, 5, 10, 25, 30), "slices are missing: 15 mm between slices 3 and 4, 5 mm elsewhere; export the whole"),
        ((*range(0, 90, 3), 93), "slices are missing: 6 mm between slices 30 and 31, 3 mm elsewhere"),
        ((0, 2, 4, 9, 14, 19), "distances of slices differ, 2 to 5 mm; resample the volume onto an even grid"),
        ((0, 5, 5, 10), "4 slices at 3 positions; remove the duplicates"),
    ],
)  # fmt: skip
def test_positions_that_are_not_a_volume_are_an_error(heights: tuple[float, ...], text: str, tmp_path: Path) -> None:
    assert error_of(at_heights(tmp_path / "s", *heights)).startswith(text)


def test_rounded_positions_are_even_enough(tmp_path: Path) -> None:
    assert read_image(at_heights(tmp_path / "s", *(round(0.625 * k, 1) for k in range(9)))).shape == (1, 6, 7, 9)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"ImageOrientationPatient": [ALONG, ALONG, ALONG, [0, 1, 0, 0, 0, -1]]}, "slices of 2 orientations (3 and 1)"),
        ({"ImagePositionPatient": [[0, 0, 0], [0, 0, 1], [0, 0, 2], None]}, "1 of 4 slices have no position"),
        ({"ImageType": [["ORIGINAL", "PRIMARY", "AXIAL"]] * 3 + [["DERIVED", "SECONDARY", "MIP"]]},
         "images of 2 kinds by ImageType (3 and 1), such as localizers"),
        ({"PixelSpacing": [[1, 1], [1, 1], [1, 1], [2, 2]]}, "slices of several pixel spacings in one volume"),
        ({"FrameOfReferenceUID": ["1.2", "1.2", "1.2", "1.3"]}, "2 frames of reference in one folder (3 and 1 images)"),
        ({"SeriesInstanceUID": ["1.2", "1.2", "1.2", "1.3"]}, "2 series in one folder (3 and 1 images)"),
        ({"ImagePositionPatient": [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]], "EchoTime": [9, 9, 80, 80]},
         "4 slices at 2 positions; they differ in EchoTime: put each in a folder or file of its own"),
        ({"ImagePositionPatient": [[0, 0.3 * k, 1.0 * k] for k in range(4)]}, "axes are 16.7 degrees off a right"),
        ({"ImagePositionPatient": [[0, 0, 0], [0, 1, 2], [0, -1, 4], [0, 0, 6]]}, "slices are not aligned along one"),
    ],
)  # fmt: skip
def test_images_of_several_volumes_are_an_error(changed: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert error_of(at_heights(tmp_path / "s", 0, 1, 2, 3, **changed)).startswith(text)


def test_a_file_without_preamble_is_a_slice_as_well(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    for name, implicit in (("1.dcm", True), ("3.dcm", False)):
        file = pydicom.dcmread(folder / name)
        bare = pydicom.Dataset(file)
        bare.save_as(folder / name, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert np.array_equal(read_image(folder)[0], BODY)
    alone = pydicom.dcmread(folder / "1.dcm", force=True)
    assert "TransferSyntaxUID" not in alone.file_meta
    assert np.array_equal(read_image(folder / "1.dcm")[0], BODY[::-1, ::-1, 3].T)


def test_other_files_are_ignored_and_damaged_ones_are_an_error(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    (folder / "readme.txt").write_text("no image")
    (folder / "._0.dcm").write_bytes(b"\0\5\x16\7 of another system")
    report = blank("1.2.840.10008.5.1.4.1.1.88.11", 1, 1, SeriesInstanceUID="1.9")
    del report.Rows
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    assert np.array_equal(read_image(folder)[0], BODY)
    (folder / "9.dcm").write_bytes((folder / "4.dcm").read_bytes()[:400])  # before it says how many rows it has
    assert error_of(folder).startswith("1 of 8 files have a DICOM name but are damaged or empty")
    (folder / "9.dcm").write_bytes(b"")
    assert error_of(folder).startswith("1 of 8 files have a DICOM name but are damaged or empty")


def test_a_folder_of_folders_is_an_error(tmp_path: Path) -> None:
    series(tmp_path / "study" / "series")
    assert error_of(tmp_path / "study").endswith("but with 1 folders; use the one with the series")


def test_slices_without_position_are_sorted_by_number(tmp_path: Path) -> None:
    folder = series(
        tmp_path / "s", order=[2, 0, 4, 1, 3], ImagePositionPatient="absent", InstanceNumber=[3, 1, 5, 2, 4]
    )
    assert np.array_equal(read_image(folder)[0], stored(BODY, "axial"))
    assert read_header(folder).orientation is None


@pytest.mark.parametrize(("order", "reversed_"), [([0, 1, 2, 3, 4], False), ([4, 3, 2, 1, 0], True)])
def test_numbers_against_positions_are_reported(order: list[int], reversed_: bool, tmp_path: Path) -> None:
    header = read_header(series(tmp_path / "s", order=order))
    assert header.numbers_reversed == reversed_
    assert (header.modality, header.orientation) == ("CT", "SPL")
    assert header.series is not None
    assert "1.2.2" not in header.series
    alone = read_header(tmp_path / "s" / "0.dcm")
    assert (alone.series, alone.numbers_reversed) == (header.series, False)


def test_each_slice_has_its_own_scale_and_one_inversion(tmp_path: Path) -> None:
    """MONOCHROME1: bright is thin, and slices of unequal slope stay comparable."""
    slopes = [0.5, 1, 2, 4, 8]
    folder = series(tmp_path / "s", order=range(5), RescaleSlope=slopes, RescaleIntercept=0, Modality="MR")
    values = np.stack([(BODY[..., k] + 1024) * slopes[k] for k in range(5)], axis=-1)
    assert np.array_equal(read_image(folder)[0], values)
    for file in folder.iterdir():
        dicom = pydicom.dcmread(file)
        dicom.PhotometricInterpretation = "MONOCHROME1"
        dicom.save_as(file)
    assert np.array_equal(read_image(folder)[0], 8.0 * (2**16 - 1) - values)


def test_a_measurement_is_not_inverted_by_monochrome1(tmp_path: Path) -> None:
    assert np.array_equal(read_image(series(tmp_path / "s", PhotometricInterpretation="MONOCHROME1"))[0], BODY)


@pytest.mark.parametrize("padding", [{"PixelPaddingValue": 3}, {"PixelPaddingValue": 2, "PixelPaddingRangeLimit": 9}])
def test_padding_becomes_the_least_measured_value(padding: dict[str, int], tmp_path: Path) -> None:
    body = BODY.copy()
    body[0] = 3 - 1024
    expected = np.where(body == 3 - 1024, BODY[1:].min(), body)
    assert np.array_equal(read_image(series(tmp_path / "s", volume=body, **padding))[0], expected)


def test_empty_slopes_are_ignored(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", RescaleSlope=None, RescaleIntercept=None)
    assert np.array_equal(read_image(folder)[0], BODY + 1024)
