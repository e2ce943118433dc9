from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.prediction.mask_names import mask_names

PARTS = st.sampled_from(
    ["a", "A", "\u00e9", "e\u0301", "\u00df", "ss", "a.png", "a-2", "con", "Nul", "x" * 248, "\u00e9" * 130]
)
SUFFIXES = st.sampled_from(["", ".png", ".PNG", ".nii.gz", ".dcm", ".jpg"])


@given(st.lists(st.tuples(PARTS, SUFFIXES).map("".join), min_size=1, max_size=12))
def test_masks_are_different_files_on_every_file_system(images: list[str]) -> None:
    names = mask_names([Path("folder", image) for image in images])
    written = [f"{name}.nii.gz" for name in names]
    assert len({unicodedata.normalize("NFC", unicodedata.normalize("NFC", n).casefold()) for n in written}) == len(
        names
    )
    assert all(len(name.encode()) <= 255 for name in written)
    assert not {"con", "nul"} & {name.split(".")[0].lower() for name in names}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["a.png", "b.nii.gz", "1.2.840.113619"], ["a", "b", "1.2.840.113619"]),
        (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b"]),
        (["a.nii.gz", "a", "A.dcm"], ["a.nii.gz", "a", "A.dcm"]),
        (["x/a.png", "y/a.png", "a.png.bmp"], ["a.png-2", "a.png-3", "a.png"]),
        (["nul.png", "com1", "comma.png"], ["_nul", "_com1", "comma"]),
        (["\udcff.png"], ["\ufffd"]),
    ],
)
def test_names_by_hand(images: list[str], expected: list[str]) -> None:
    assert mask_names([Path(image) for image in images]) == expected


def test_a_cut_name_keeps_its_digest() -> None:
    long = ["x" * 249 + end for end in "ab"]
    first, second = mask_names([Path(name) for name in long])
    assert first != second
    assert first.startswith("x" * 200)
    assert [first] == mask_names([Path(long[0])])  # whoever else is there
