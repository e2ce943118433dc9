from __future__ import annotations

from pathlib import Path

from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_warnings import split_warnings


def rows(*values: tuple[str, str, str]) -> list[Row]:
    return [
        Row(at, Path(str(at)), site, split, label or None, None, str(at))
        for at, (site, split, label) in enumerate(values, start=2)
    ]


def test_good_splits_have_no_warning() -> None:
    assert split_warnings(rows(("A", "train", "x"), ("A", "train", "y"), ("B", "test", "x"), ("B", "test", ""))) == []


def test_validation_images_have_a_warning() -> None:
    (warning,) = split_warnings(rows(("A", "train", ""), ("A", "val", ""), ("B", "val", ""), ("B", "val", "")))
    assert warning.startswith("split val: 3 images (A 1, B 2) are not used for training, scores")


def test_classes_without_a_training_image_have_a_warning() -> None:
    found = split_warnings(rows(("A", "train", "Mass|Edema"), ("A", "test", "Edema|Nodule"), ("A", "val", "Hernia")))
    assert "class 'Nodule' has no training image (only test) and cannot be learned" in found
    assert "class 'Hernia' has no training image (only val) and cannot be learned" in found
    assert not any("'Edema'" in warning for warning in found)


def test_many_classes_have_a_warning() -> None:
    assert "30 classes in 30 labelled images" in split_warnings(rows(*[("A", "train", str(at)) for at in range(30)]))[0]


def test_sites_with_other_class_names_have_a_warning() -> None:
    one, other = split_warnings(
        rows(*[(s, "train", label) for s, words in {"A": "01", "B": "xy"}.items() for label in words])
    )
    assert "site 'A' has no class of the other sites (0, 1)" in one
    assert "site 'B' has no class of the other sites (x, y)" in other
