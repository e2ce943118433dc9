from __future__ import annotations

from pathlib import Path
from typing import Any

from fedcore.data.io.header import Header
from fedcore.data.manifest.row import Row
from fedcore.data.tools.check_image import ImageCheck
from fedcore.data.tools.manifest_warnings import manifest_warnings

VOLUME = (4, 5, 6)


def warnings_for(*looks: ImageCheck, split: tuple[str, ...] = (), **row: Any) -> str:
    splits = split or ("train",) * len(looks)
    given = {"label": None, "mask": None} | row
    pairs = [
        (Row(at, Path(f"{at}.png"), "A", part, patient=str(at), **given), look)
        for at, (part, look) in enumerate(zip(splits, looks, strict=True), start=2)
    ]
    return "\n".join(manifest_warnings({"A": pairs}))


def volume(**header: Any) -> ImageCheck:
    return ImageCheck(VOLUME, 1, 0.0, 1.0, header=Header(spacing=(1.0, 1.0, 1.0)) if not header else Header(**header))


def test_volumes_without_orientation_or_spacing_have_a_warning() -> None:
    found = warnings_for(
        volume(spacing=(1.0, 1.0, 2.0), orientation="LAS"), volume(orientation="RAS"), volume(modality="CT")
    )
    assert "2 of 3 volumes have no voxel spacing" in found
    assert "1 of 3 volumes have no orientation" in found
    placed = volume(spacing=(1.0, 1.0, 2.0), orientation="LAS")
    assert "volumes" not in warnings_for(placed, placed)
    assert "2 of 2 volumes have no orientation" in warnings_for(volume(), volume())


def test_several_modalities_have_a_warning() -> None:
    assert "images of several modalities (CT 1, MR 2)" in warnings_for(
        *[volume(modality=name) for name in ("MR", "CT", "MR")]
    )


def test_slices_of_one_series_have_a_warning() -> None:
    slices = [ImageCheck((5, 6), 1, 0.0, 1.0, header=Header(series=name)) for name in "aabbbc"]
    assert "5 rows are slices of 2 DICOM series; use the folder" in warnings_for(*slices)


def test_structures_without_a_training_mask_have_a_warning() -> None:
    looks = [ImageCheck((5, 6), 1, 0.0, 1.0, structures=frozenset(numbers)) for numbers in ((0, 1), (0, 1, 3, 255))]
    assert "structure 3 occurs in no mask of a training image" in warnings_for(*looks[:2], split=("train", "test"))


def test_masks_of_series_with_reversed_numbers_have_a_warning() -> None:
    look = volume(spacing=(1.0, 1.0, 2.0), orientation="LPS", numbers_reversed=True)
    assert "rows 2, 3: instance numbers of these DICOM series run" in warnings_for(look, look, mask=Path("m.npy"))
    assert "instance numbers" not in warnings_for(look, mask=Path("m.nii.gz")) + warnings_for(look)


def test_duplicates_have_a_warning() -> None:
    twice = [ImageCheck((5, 6), digest="x")] * 2
    assert "in several splits" in warnings_for(*twice, split=("train", "test"))
