"""The rows of a CSV as spreadsheets and scripts write it: delimiters, byte order marks, files that are not text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from fedcore.errors import InputErrors

_DELIMITERS = ",;\t"
_INVISIBLE = "\ufeff\u200b\u200e\u200f"
_EXCEL = re.compile(r'"?sep=(.)"?[\s,;]*', re.IGNORECASE)
"""A first line that Excel writes and hides; it does not count as a row."""


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of every row that is not blank, the header first, as row 1; cells are stripped.

    Raises:
        InputErrors: The file cannot be read, or is not a CSV.
    """
    text = _text(path)
    first = text.lstrip("\r\n ").splitlines()[0]
    delimiter = max(_DELIMITERS, key=first.count)
    if excel := _EXCEL.fullmatch(first):
        delimiter = excel[1]
        if delimiter not in _DELIMITERS:
            raise InputErrors(str(path), [f"its first line sets the delimiter {delimiter!r}; use , or ; or a tab"])
        text = text.lstrip("\r\n ")[len(first) :].lstrip("\r\n")
    number = 0
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1):
            stripped = [cell.strip().strip(_INVISIBLE).strip() for cell in cells]
            while stripped and not stripped[-1]:  # a delimiter at the end of a line is not a column
                stripped.pop()
            if stripped:
                yield number, stripped
    except csv.Error as error:
        raise InputErrors(str(path), [f"row {number + 1}: not a CSV: {error}"]) from None


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputErrors(str(path), [f"cannot be read: {error.strerror}; give the path of a CSV file"]) from None
    if content.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise InputErrors(str(path), ["a workbook or an archive, not a CSV; save it as 'CSV UTF-8'"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputErrors(str(path), [f"not UTF-8 text (byte {error.start}); save it as 'CSV UTF-8'"]) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputErrors(str(path), [f"not a text file (NUL in line {line}); save it as 'CSV UTF-8'"])
    if not text.strip():
        raise InputErrors(str(path), ["empty; the first row must be a header such as 'image,site,split,label'"])
    return text
