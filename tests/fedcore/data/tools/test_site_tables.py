from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from fedcore.data.io.header import Header
from fedcore.data.manifest.row import Row
from fedcore.data.tools.check_image import ImageCheck
from fedcore.data.tools.site_tables import count_table, image_table

LABELS = ("meningioma", "squamous cell carcinoma", "2", "10")


def shown(width: int, site: str = "brightfield_purple") -> str:
    pairs = [
        (Row(at, Path(f"{at}"), site, "train", LABELS[at % 4], None, str(at)), ImageCheck(
            (32 + at, 41, 26), 1, -1000.0, 501104.0 - at,
            header=Header(spacing=(0.5 + at, 0.7, 0.7), orientation="LAS", modality="CT" if at else "MR"),
            structures=frozenset({0, 1 + at % 2}),
        ))
        for at in range(9)
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=width)
    console.print(count_table({site: pairs}))
    console.print(image_table({site: pairs}))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_and_labels_keep_their_counts(width: int) -> None:
    lines = shown(width).splitlines()
    assert max(map(len, lines)) <= width
    for whole in (
        "meningioma 3",
        "squamous cell carcinoma 2",
        "2 2",
        "10 2",
        "CT 8",
        "MR 1",
        "LAS",
        "0 in 9",
        "2 in 4",
    ):
        assert any(whole in line for line in lines), whole
    text = " ".join(lines)
    for word in ("32..40", "41", "26", "greyscale", "0.5..8.5", "-1000", "501104"):
        assert f"{word} " in text
    assert "…" not in text


def test_numeric_labels_are_in_numeric_order() -> None:
    text = shown(200)
    assert text.index("2 2") < text.index("10 2") < text.index("meningioma 3")


def test_a_long_site_name_is_wrapped_and_complete() -> None:
    text = shown(80, "j" * 30 + "z" * 30)
    assert text.count("j") == text.count("z") == 60  # in two tables


def test_empty_columns_are_omitted() -> None:
    row = Row(2, Path("a"), "A", "train", None, None, "p")
    checked: Mapping[str, list[tuple[Row, ImageCheck]]] = {"A": [(row, ImageCheck((4, 4), 3, 0.0, 255.0))]}
    assert [column.header for column in image_table(checked).columns] == [
        "site",
        "pixels",
        "intensity (1st to 99th percentile)",
    ]
