from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from fedcore.data.io.readers import read_image
from tests.fedcore.data.io.dicom.files import GREYSCALE, dicom, series
from tests.fedcore.data.io.test_readers import error_of


def test_dicom_units_and_orientation(tmp_path: Path) -> None:
    plain = read_image(dicom(tmp_path / "a.dcm", GREYSCALE))
    assert plain.dtype == np.float32
    assert plain.tolist() == [GREYSCALE.tolist()]
    hounsfield = read_image(dicom(tmp_path / "b", GREYSCALE, RescaleSlope=2, RescaleIntercept=-1000))
    assert hounsfield[0].tolist() == (GREYSCALE * 2.0 - 1000).tolist()
    negative = read_image(dicom(tmp_path / "c.dcm", GREYSCALE, PhotometricInterpretation="MONOCHROME1"))
    assert negative[0].tolist() == (4095.0 - GREYSCALE).tolist()
    frames = np.arange(24).reshape(2, 3, 4)
    assert read_image(dicom(tmp_path / "d.dcm", frames)).tolist() == [frames.tolist()]


def test_a_series_is_sorted_by_position(tmp_path: Path) -> None:
    volume = read_image(series(tmp_path / "s", [2, 0, 1]))
    assert volume.tolist() == [[(GREYSCALE + 100.0 * place).tolist() for place in range(3)]]


def test_a_series_without_positions_is_sorted_by_number(tmp_path: Path) -> None:
    volume = read_image(series(tmp_path / "s", [2, 0, 1], ImagePositionPatient=None))
    assert volume[0, :, 0, 0].tolist() == [200, 0, 100]


def test_folders_that_are_not_one_series_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no image")
    assert error_of(tmp_path / "notes") == "a folder without DICOM files"
    assert "at 1 positions; remove the duplicates" in error_of(series(tmp_path / "twice", [1, 1]))
    two = series(tmp_path / "two", [0, 1])
    dicom(two / "other.dcm", GREYSCALE, SeriesInstanceUID="1.2.4")
    assert error_of(two) == "2 series in one folder (2 and 1 images); it must contain one"
    lost = series(tmp_path / "lost", [0, 1], ImagePositionPatient=None, InstanceNumber=None)
    assert "without position" in error_of(lost)
    uneven = series(tmp_path / "uneven", [0, 1])
    dicom(
        uneven / "2.dcm",
        GREYSCALE[:2],
        SeriesInstanceUID="1.2.3",
        ImagePositionPatient=[0, 0, 9],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    assert "unequal shape" in error_of(uneven)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CT_small.dcm", (1, 128, 128)),
        ("MR_small_RLE.dcm", (1, 64, 64)),
        ("MR_small_bigendian.dcm", (1, 64, 64)),
        ("SC_rgb_small_odd.dcm", (3, 3, 3)),
        ("SC_rgb_rle_2frame.dcm", (3, 2, 100, 100)),
        ("examples_palette.dcm", (3, 350, 800)),
        ("SC_rgb_jpeg_dcmtk.dcm", (3, 100, 100)),
        ("rtdose_1frame.dcm", (1, 10, 10)),
    ],
)
def test_files_of_pydicom_are_read(name: str, shape: tuple[int, ...]) -> None:
    assert read_image(Path(str(get_testdata_file(name, download=False)))).shape == shape


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MR_truncated.dcm", "truncated or unreadable (DICOM)"),
        ("rtplan.dcm", "DICOM without pixels"),
        ("test-SR.dcm", "DICOM without pixels"),
    ],
)
def test_dicom_without_readable_pixels_is_an_error(name: str, text: str) -> None:
    assert text in error_of(Path(str(get_testdata_file(name, download=False))))


def test_jpeg_ls_is_read() -> None:
    """Near-lossless: the file's levels as pydicom's own tests have them."""
    image = read_image(Path(str(get_testdata_file("JPEGLSNearLossless_08.dcm", download=False))))
    assert image[0, ::5, 0].tolist() == [255, 125, 65, 30, 15, 5, 5, 0, 0]


def test_a_missing_decoder_is_named(tmp_path: Path) -> None:
    file = pydicom.dcmread(str(get_testdata_file("MR_small_RLE.dcm", download=False)))
    file.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    file.save_as(tmp_path / "a.dcm")
    assert error_of(tmp_path / "a.dcm").startswith(
        "no decoder for MPEG2 Main Profile / Main Level; decompress the file"
    )


def test_errors_contain_nothing_of_the_header(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", GREYSCALE, BitsAllocated=7)
    assert "Secret" not in error_of(path)
    path = dicom(tmp_path / "b.dcm", GREYSCALE)
    path.write_bytes(path.read_bytes()[:-5])
    assert "Secret" not in error_of(path)


def test_real_dicom_series(real_data: Path) -> None:
    folder = next((real_data / "dicom_samples" / "series").iterdir())
    volume = read_image(folder)
    slices = [read_image(path)[0] for path in folder.iterdir()]
    assert volume.shape == (1, *slices[0].shape[::-1], len(slices))
    assert np.sort(volume[0].sum(axis=(0, 1))).tolist() == pytest.approx(sorted(s.sum() for s in slices))


def test_pydicom_reads_what_the_tests_wrote(tmp_path: Path) -> None:
    assert (pydicom.dcmread(dicom(tmp_path / "a.dcm", GREYSCALE)).pixel_array == GREYSCALE).all()
