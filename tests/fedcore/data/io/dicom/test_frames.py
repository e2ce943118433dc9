from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.tag import Tag

from fedcore.data.io.affine import affine_of
from fedcore.data.io.error import ImageError
from fedcore.data.io.readers import read_image
from fedcore.data.io.spacing import spacing_of
from tests.fedcore.data.io.forms import BODY, blank, enhanced, frames, item, save, stored

SECONDARY, RADIOGRAPH = "1.2.840.10008.5.1.4.1.1.7.3", "1.2.840.10008.5.1.4.1.1.1.1"
FILM = np.arange(5 * 4 * 3).reshape(5, 4, 3)


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    return str(caught.value)


def test_each_frame_may_have_its_own_scale(tmp_path: Path) -> None:
    shared, own, samples = frames([2, 0, 1, 4, 3])
    del shared.PixelValueTransformationSequence
    for at, group in enumerate(own):
        group.PixelValueTransformationSequence = [item(RescaleSlope=at + 1, RescaleIntercept=-7, RescaleType="US")]
    slopes = np.array([2, 3, 1, 5, 4])  # by place
    volume = read_image(enhanced(tmp_path / "a.dcm", shared, own, samples))[0]
    assert np.array_equal(volume, (BODY + 1024) * slopes - 7)


def test_frames_at_one_position_are_an_error_that_names_their_differences(tmp_path: Path) -> None:
    shared, own, samples = frames([0, 1, 2, 0, 1, 2])
    for at, group in enumerate(own):
        group.MREchoSequence = [item(EffectiveEchoTime=10.0 + at // 3)]
    error = error_of(enhanced(tmp_path / "a.dcm", shared, own, samples))
    assert error.startswith("6 slices at 3 positions; they differ in EffectiveEchoTime")


def test_frames_of_several_directions_or_spacings_are_an_error(tmp_path: Path) -> None:
    shared, own, samples = frames(range(5))
    along = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    own[1].PlaneOrientationSequence = [item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])]
    assert error_of(enhanced(tmp_path / "a.dcm", shared, own, samples)).startswith("slices of 2 orientations (4 and 1)")
    own[1].PlaneOrientationSequence = [item(ImageOrientationPatient=along)]
    own[1].PixelMeasuresSequence = [item(PixelSpacing=[2, 2])]
    assert error_of(enhanced(tmp_path / "b.dcm", shared, own, samples)).startswith("slices of several pixel spacings")


def film(path: Path, **tags: Any) -> Path:
    save(blank(SECONDARY, 4, 3, NumberOfFrames=5, **tags), FILM, path)
    return path


@pytest.mark.parametrize(
    "tags",
    [{"Modality": "US"}, {"FrameIncrementPointer": Tag(0x00181063)}, {"Modality": "XA", "CineRate": 15},
     {"Modality": "NM", "FrameIncrementPointer": [Tag(0x00540010), Tag(0x00540050)]}],
    ids=["ultrasound", "frame time", "cine", "projections"],
)  # fmt: skip
def test_frames_in_time_are_not_a_volume(tags: dict[str, Any], tmp_path: Path) -> None:
    assert error_of(film(tmp_path / "a.dcm", **tags)).startswith("5 frames without a position, of a film")


@pytest.mark.parametrize("tags", [{"Modality": "OT"}, {"Modality": "NM", "FrameIncrementPointer": Tag(0x00540080)}])
def test_frames_without_position_stay_as_stored(tags: dict[str, Any], tmp_path: Path) -> None:
    path = film(tmp_path / "a.dcm", PixelSpacing=[2, 3], SpacingBetweenSlices=-4, **tags)
    assert np.array_equal(read_image(path)[0], FILM)
    assert affine_of(path) is None
    assert spacing_of(path) == (4, 2, 3)


def test_a_dose_has_the_positions_of_its_offsets_and_its_units(tmp_path: Path) -> None:
    path = film(tmp_path / "a.dcm", Modality="RTDOSE", ImagePositionPatient=[0, 0, 9], PixelSpacing=[1, 2],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0], GridFrameOffsetVector=[0, 3, 6, 9, 12],
                FrameIncrementPointer=Tag(0x3004000C), DoseGridScaling=0.25)  # fmt: skip
    assert np.array_equal(read_image(path)[0], (FILM * 0.25).transpose(2, 1, 0)[::-1, ::-1])
    assert spacing_of(path) == (2, 1, 3)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("1.2.840.10008.5.1.4.1.1.481.3", "contours (RTSTRUCT) without pixels; convert them to NIfTI"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "a segmentation (DICOM SEG), not an image; use it in the column mask"),
        ("1.2.840.10008.5.1.4.1.1.77.1.6", "tiles of a whole slide image"),
        ("1.2.840.10008.1.3.10", "DICOMDIR, a table of contents"),
    ],
)
def test_files_without_an_image_are_an_error(kind: str, text: str, tmp_path: Path) -> None:
    save(blank(kind, 4, 3), FILM[0], tmp_path / "a.dcm")
    assert error_of(tmp_path / "a.dcm").startswith(text)


def test_a_table_of_contents_is_an_error() -> None:
    path = Path(str(get_testdata_file("DICOMDIR", download=False)))
    assert error_of(path).startswith("DICOMDIR, a table of contents; use the folder of a series")


def test_a_radiograph_has_the_spacing_of_its_detector_unless_it_is_calibrated(tmp_path: Path) -> None:
    def saved(**tags: Any) -> Path:
        save(blank(RADIOGRAPH, 4, 3, **tags), FILM[0], tmp_path / "a.dcm")
        return tmp_path / "a.dcm"

    assert spacing_of(saved(ImagerPixelSpacing=[0.2, 0.3])) == (0.2, 0.3)
    assert spacing_of(saved(ImagerPixelSpacing=[0.2, 0.3], PixelSpacing=[0.1, 0.15])) == (0.1, 0.15)
    assert spacing_of(saved(PixelSpacing=[0, 0])) is None
    assert read_image(saved(PixelAspectRatio=[1, 1])).shape == (1, 4, 3)
    assert error_of(saved(PixelAspectRatio=[4, 3])).startswith("pixels are not square (4:3)")


def test_a_folder_may_contain_one_file_of_several_frames(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    enhanced(tmp_path / "s" / "a.dcm", *frames([1, 0, 2, 4, 3]))
    assert np.array_equal(read_image(tmp_path / "s")[0], BODY)
    enhanced(tmp_path / "s" / "b.dcm", *frames([1, 0, 2, 4, 3]))
    assert error_of(tmp_path / "s").startswith("2 files, some with several frames")


def test_signed_samples_ignore_the_bits_above_those_stored(tmp_path: Path) -> None:
    """Old files store overlays in these bits."""
    values = np.array([[-2048, -1, 0], [1, 5, 2047]])
    file = blank(RADIOGRAPH, 2, 3, PixelRepresentation=1, PixelPaddingValue=-2048, BitsStored=12, HighBit=11)
    save(file, (values & 0xFFF) | 0x1000, tmp_path / "a.dcm")
    assert read_image(tmp_path / "a.dcm")[0].tolist() == [[-1, -1, 0], [1, 5, 2047]]


def test_the_helper_stores_slices_as_dicom_defines() -> None:
    """DICOM's axial slice: rows run to the back, columns to the left."""
    assert stored(BODY, "axial")[2, 0, 0] == BODY[-1, -1, 2]
