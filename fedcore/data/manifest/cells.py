"""What stands in the cells of a manifest: words for "nothing here", numbers that pandas made floats, Unicode forms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence

from fedcore.data.findings import SEPARATOR

_NUMBERS = [sign + word for sign in ("", "-") for word in ("nan", "1.#ind", "1.#qnan")]
_WORDS = ["na", "n/a", "n.a.", "#n/a", "#na", "#n/a n/a", "<na>", "nat", "null", "nil", "none", "-", "--", "?", "."]
MISSING = frozenset([*_NUMBERS, *_WORDS])
"""Words for a missing value, in any case: those of pandas, databases and spreadsheets."""
_WHOLE = re.compile(r"([+-]?\d+)[.,]0+")
_LONG = re.compile(r"\d[.,]?\d*[eE]\+?\d+")
_WITHOUT = {
    "label": "these images have no label",
    "mask": "these images have no mask",
    "patient": "each of these images counts as a patient of its own",
    "position": "these slices have no position",
}


def is_missing(cell: str) -> bool:
    return not cell or cell.casefold() in MISSING


def whole(cell: str) -> str:
    """A whole number as it was before a gap in its column made all numbers floats: 12.0 is 12."""
    found = _WHOLE.fullmatch(cell)
    return found[1] if found else cell


def composed(text: str) -> str:
    """With each accent and its letter as one code point (NFC), as editors write them; names of macOS files are not."""
    return unicodedata.normalize("NFC", text)


def mended(record: Mapping[str, str]) -> dict[str, str]:
    """The record with missing values as '', numbers whole and text composed; paths keep their form.

    A label `none` is kept: it may be the class of those without a finding. So is every site: none may be nameless.
    """
    found = {name: "" if is_missing(cell) and name != "site" else cell for name, cell in record.items()}
    if record["label"].casefold() == "none":
        found["label"] = record["label"]
    found["label"] = SEPARATOR.join(whole(name.strip()) for name in found["label"].split(SEPARATOR))
    return found | {name: composed(whole(found[name])) for name in ("site", "label", "patient")}


def notes_of(records: Sequence[Mapping[str, str]], has: Container[str]) -> list[str]:
    """What `mended` changes, by counts, of the columns that the file has."""
    notes = []
    for name in (name for name in _WITHOUT if name in has):
        words = sum(bool(record[name]) and not mended(record)[name] for record in records)
        notes += [_told(name, words, "cell", "such as nan or N/A", f"read as empty; {_WITHOUT[name]}")]
    for name in ("site", "label", "patient"):
        floats = sum(whole(record[name]) != record[name] for record in records)
        notes += [_told(name, floats, "number", "such as 12.0", "read as 12")]
    if "patient" in has:
        patients = [record["patient"] for record in records]
        none = patients.count("") if any(patients) else 0
        long = sum(bool(_LONG.fullmatch(patient)) for patient in patients)
        lost = "shortened by a spreadsheet; several patients may have become one, so write the column as text"
        notes += [_told("patient", none, "cell", "", f"empty; {_WITHOUT['patient']}")]
        notes += [_told("patient", long, "number", "such as 1.2E+11", lost)]
    return [note for note in notes if note]


def rows_told(numbers: Iterable[int], most: int = 5) -> str:
    """`row 3`, or `rows 3, 4, 5, 6, 7 and 12 more`."""
    found = sorted(set(numbers))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"row{'s' * (len(found) > 1)} {', '.join(map(str, found[:most]))}{more}"


def _told(column: str, count: int, what: str, like: str, then: str) -> str:
    """A note of so many cells of a column; none of none."""
    words = [f"column '{column}': {count} {what}{'s' * (count > 1)}", like, "are" if count > 1 else "is", then]
    return " ".join(word for word in words if word) if count else ""
