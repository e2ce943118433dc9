from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.data.manifest.csv_text import read_rows
from fedcore.errors import InputErrors


def read(folder: Path, text: str | bytes) -> list[tuple[int, list[str]]]:
    path = folder / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_rows(path))


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "sep=;;;", "\ufeffsep=;"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_first_line_of_excel_is_not_a_row(tmp_path: Path, first: str, end: str) -> None:
    assert read(tmp_path, f"{first}{end}image;site{end}a, b.png;n{end}") == [
        (1, ["image", "site"]),
        (2, ["a, b.png", "n"]),
    ]


def test_the_line_of_excel_decides_the_delimiter(tmp_path: Path) -> None:
    assert read(tmp_path, "sep=\t\na,b\tc\n") == [(1, ["a,b", "c"])]
    with pytest.raises(InputErrors, match="sets the delimiter"):
        read(tmp_path, "sep=|\na|b\n")


def test_invisible_characters_are_removed(tmp_path: Path) -> None:
    assert read(tmp_path, "image , \u200bsite,\xa0split,,\n\n a.png,\tn ,train,,\n") == [
        (1, ["image", "site", "split"]), (3, ["a.png", "n", "train"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"PK\3\4rest", "a workbook or an archive"),
        ("image,site".encode("utf-16"), "not UTF-8 text"),
        (b" \n\n", "empty; the first row must be a header"),
        (b"image,site\n" + b"x" * 200_000, "row 2: not a CSV: field larger"),
    ],
)
def test_other_files_are_an_error(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(InputErrors, match=text):
        read(tmp_path, content)
