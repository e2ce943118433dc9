from __future__ import annotations

from pathlib import Path
from typing import Any

from fedcore.data.io.header import Header
from fedcore.data.manifest.row import Row
from fedcore.data.tools.check_image import Look
from fedcore.data.tools.manifest_warnings import cautions

VOLUME = (4, 5, 6)


def told(*looks: Look, split: tuple[str, ...] = (), **row: Any) -> str:
    splits = split or ("train",) * len(looks)
    given = {"label": None, "mask": None} | row
    pairs = [
        (Row(at, Path(f"{at}.png"), "A", part, patient=str(at), **given), look)
        for at, (part, look) in enumerate(zip(splits, looks, strict=True), start=2)
    ]
    return "\n".join(cautions({"A": pairs}))


def volume(**header: Any) -> Look:
    return Look(VOLUME, 1, 0.0, 1.0, header=Header(spacing=(1.0, 1.0, 1.0)) if not header else Header(**header))


def test_volumes_that_do_not_say_how_they_lie() -> None:
    found = told(volume(spacing=(1.0, 1.0, 2.0), orientation="LAS"), volume(orientation="RAS"), volume(modality="CT"))
    assert "2 of 3 volumes do not say how far apart their voxels are" in found
    assert "1 of 3 volumes do not say how they lie" in found
    placed = volume(spacing=(1.0, 1.0, 2.0), orientation="LAS")
    assert "volumes" not in told(placed, placed)
    assert "2 of 2 volumes do not say how they lie" in told(volume(), volume())


def test_several_modalities() -> None:
    assert "images of several modalities (CT 1, MR 2)" in told(*[volume(modality=name) for name in ("MR", "CT", "MR")])


def test_rows_that_are_slices_of_one_series() -> None:
    slices = [Look((5, 6), 1, 0.0, 1.0, header=Header(series=name)) for name in "aabbbc"]
    assert "5 rows are slices of 2 DICOM series; a row that names the folder" in told(*slices)


def test_structures_that_no_training_mask_has() -> None:
    looks = [Look((5, 6), 1, 0.0, 1.0, structures=frozenset(numbers)) for numbers in ((0, 1), (0, 1, 3, 255))]
    assert "no mask of a training image has structure 3, and" in told(*looks[:2], split=("train", "test"))


def test_masks_in_the_order_of_numbers_that_run_against_places() -> None:
    look = volume(spacing=(1.0, 1.0, 2.0), orientation="LPS", numbers_reversed=True)
    assert "rows 2, 3: slices of these DICOM series are numbered" in told(look, look, mask=Path("m.npy"))
    assert "numbered" not in told(look, mask=Path("m.nii.gz")) + told(look)


def test_images_twice() -> None:
    assert "in several splits" in told(Look((5, 6), digest="x"), Look((5, 6), digest="x"), split=("train", "test"))
