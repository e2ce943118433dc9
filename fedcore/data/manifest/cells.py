"""Cells of a manifest: words for missing values, whole numbers that pandas wrote as floats, Unicode forms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence

from fedcore.data.findings import SEPARATOR

_NUMBERS = [sign + word for sign in ("", "-") for word in ("nan", "1.#ind", "1.#qnan")]
_WORDS = ["na", "n/a", "n.a.", "#n/a", "#na", "#n/a n/a", "<na>", "nat", "null", "nil", "none", "-", "--", "?", "."]
MISSING = frozenset([*_NUMBERS, *_WORDS])
"""Words for a missing value, in any case, of pandas, databases and spreadsheets."""
_WHOLE = re.compile(r"([+-]?\d+)[.,]0+")
_LONG = re.compile(r"\d[.,]?\d*[eE]\+?\d+")
_CONSEQUENCE = {
    "label": "these images have no label",
    "mask": "these images have no mask",
    "patient": "each of these images counts as a patient of its own",
    "position": "these slices have no position",
}


def is_missing(cell: str) -> bool:
    return not cell or cell.casefold() in MISSING


def whole(cell: str) -> str:
    """12.0 becomes 12: an empty cell in a column makes pandas write all its numbers as floats."""
    found = _WHOLE.fullmatch(cell)
    return found[1] if found else cell


def composed(text: str) -> str:
    """With each accent and its letter as one code point (NFC), as editors write them; macOS file names are NFD."""
    return unicodedata.normalize("NFC", text)


def cleaned(record: Mapping[str, str]) -> dict[str, str]:
    """The record with missing values as '', whole numbers without decimals and text in NFC; paths are unchanged.

    A label `none` is kept, since it may be the class of images without a finding. A site is always kept, since every
    row needs one.
    """
    found = {name: "" if is_missing(cell) and name != "site" else cell for name, cell in record.items()}
    if record["label"].casefold() == "none":
        found["label"] = record["label"]
    found["label"] = SEPARATOR.join(whole(name.strip()) for name in found["label"].split(SEPARATOR))
    return found | {name: composed(whole(found[name])) for name in ("site", "label", "patient")}


def cell_warnings(records: Sequence[Mapping[str, str]], columns: Container[str]) -> list[str]:
    """What `cleaned` changes, as counts for each column that the file has."""
    warnings = []
    for name in (name for name in _CONSEQUENCE if name in columns):
        words = sum(bool(record[name]) and not cleaned(record)[name] for record in records)
        warnings += [_warning(name, words, "cell", "such as nan or N/A", f"read as empty; {_CONSEQUENCE[name]}")]
    for name in ("site", "label", "patient"):
        floats = sum(whole(record[name]) != record[name] for record in records)
        warnings += [_warning(name, floats, "number", "such as 12.0", "read as 12")]
    if "patient" in columns:
        patients = [record["patient"] for record in records]
        empty = patients.count("") if any(patients) else 0
        long = sum(bool(_LONG.fullmatch(patient)) for patient in patients)
        lost = "shortened by a spreadsheet; several patients may have become one, so write the column as text"
        warnings += [_warning("patient", empty, "cell", "", f"empty; {_CONSEQUENCE['patient']}")]
        warnings += [_warning("patient", long, "number", "such as 1.2E+11", lost)]
    return [warning for warning in warnings if warning]


def format_rows(numbers: Iterable[int], most: int = 5) -> str:
    """`row 3`, or `rows 3, 4, 5, 6, 7 and 12 more`."""
    found = sorted(set(numbers))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"row{'s' * (len(found) > 1)} {', '.join(map(str, found[:most]))}{more}"


def _warning(column: str, count: int, what: str, example: str, then: str) -> str:
    """A warning on `count` cells of a column; '' for none."""
    words = [f"column '{column}': {count} {what}{'s' * (count > 1)}", example, "are" if count > 1 else "is", then]
    return " ".join(word for word in words if word) if count else ""
