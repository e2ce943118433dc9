from __future__ import annotations

from pathlib import Path

from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_warnings import split_warnings


def rows(*told: tuple[str, str, str]) -> list[Row]:
    return [
        Row(at, Path(str(at)), site, split, label or None, None, str(at))
        for at, (site, split, label) in enumerate(told, start=2)
    ]


def test_nothing_to_say() -> None:
    assert split_warnings(rows(("A", "train", "x"), ("A", "train", "y"), ("B", "test", "x"), ("B", "test", ""))) == []


def test_validation_images_are_used_for_nothing() -> None:
    (note,) = split_warnings(rows(("A", "train", ""), ("A", "val", ""), ("B", "val", ""), ("B", "val", "")))
    assert note.startswith("split val: 3 images (A 1, B 2) take no part in training or in scores")


def test_classes_and_findings_that_no_training_image_has() -> None:
    found = split_warnings(rows(("A", "train", "Mass|Edema"), ("A", "test", "Edema|Nodule"), ("A", "val", "Hernia")))
    assert "class 'Nodule' has images of test alone, none for training; nobody can learn it" in found
    assert "class 'Hernia' has images of val alone, none for training; nobody can learn it" in found
    assert not any("'Edema'" in note for note in found)


def test_a_column_of_measurements_is_no_column_of_classes() -> None:
    assert "30 classes in 30 labelled images" in split_warnings(rows(*[("A", "train", str(at)) for at in range(30)]))[0]


def test_sites_that_call_their_classes_otherwise() -> None:
    one, other = split_warnings(
        rows(*[(s, "train", label) for s, words in {"A": "01", "B": "xy"}.items() for label in words])
    )
    assert "site 'A' has no class of the other sites (0, 1)" in one
    assert "site 'B' has no class of the other sites (x, y)" in other
