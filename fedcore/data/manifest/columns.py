"""The columns of a manifest, under the default names or the file's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Columns:
    """Column names of the manifest; case and surrounding blanks do not matter."""

    image: str = "image"
    """The column with the path of the image."""
    site: str = "site"
    """The column with the hospital."""
    split: str = "split"
    """The column with train, val or test."""
    label: str = "label"
    """The column with the class, or with several findings as in A|B."""
    mask: str = "mask"
    """The column with the path of the mask."""
    patient: str = "patient"
    """The column with the patient's number or name."""
    position: str = "position"
    """The column with the position of a slice in its volume."""


DEFAULT_COLUMNS = Columns()
NAMES = tuple(field.name for field in fields(Columns))
_REQUIRED = ("image", "site")
_SYNONYMS = {
    "image": "path file filename filepath imagepath imagefile imagename img imgpath scan volume series",
    "site": "hospital center centre institution institute clinic client",
    "split": "set subset fold partition phase",
    "label": "class target diagnosis category finding findings findinglabels dx y",
    "mask": "segmentation seg labelmap maskpath maskfile annotation",
    "patient": "pid patientid patientnumber subject subjectid person personid mrn",
    "position": "slice sliceindex slicenumber slicelocation",
}
"""Other common names, without blanks, `_` and `-`."""


@dataclass(frozen=True)
class ColumnHeader:
    """The header row of one file."""

    places: Mapping[str, int]
    """Place of each column that the file has, by its default name."""
    count: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def record(self, cells: Sequence[str]) -> dict[str, str]:
        """A row's cells by default name; '' where it has none."""
        found = {name: cells[at] for name, at in self.places.items() if at < len(cells)}
        return dict.fromkeys(NAMES, "") | found


def parse_header(cells: Sequence[str], columns: Columns) -> ColumnHeader:
    """Finds the columns; a missing column, and a name that looks like a typo of an optional one, are errors."""
    found = [cell.lower() for cell in cells]
    wanted = {name: getattr(columns, name).strip().lower() for name in NAMES}
    places = {name: found.index(theirs) for name, theirs in wanted.items() if theirs in found}
    errors = [f"column '{name}' occurs {found.count(name)} times" for name in _duplicates(found) if name]
    errors += [f"data.columns uses column '{name}' twice" for name in _duplicates(list(wanted.values()))]
    free = {name: theirs for name, theirs in wanted.items() if name not in places}
    others = [name for name in dict.fromkeys(found) if name and name not in wanted.values()]
    typos = {name: close[0] for name in others if (close := difflib.get_close_matches(name, free.values(), 1, 0.8))}
    synonyms = {ours: [name for name in others if ours in free and _is_synonym(name, ours)] for ours in NAMES}
    errors += [
        f"column '{name}' is missing; {_advice(name, wanted, synonyms, found)}" for name in _missing(wanted, free)
    ]
    reported = {name for ours in _REQUIRED for name in synonyms[ours]}
    errors += [
        f"unknown column '{name}'; did you mean '{close}'?{_set(synonyms, name)}"
        for name, close in typos.items()
        if name not in reported
    ]
    ignored = [name for name in others if name not in typos]
    warnings = [f"columns ignored: {', '.join(map(repr, ignored))}"] if ignored else []
    warnings += [
        f"column '{name}' is ignored; if it contains the {ours}, set data.columns.{ours} {name}"
        for ours, names in synonyms.items()
        for name in names
        if name in ignored
    ]
    return ColumnHeader(places, len(found), tuple(errors), tuple(warnings))


def _duplicates(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _is_synonym(theirs: str, ours: str) -> bool:
    return "".join(mark for mark in theirs if mark.isalnum()) in _SYNONYMS[ours].split()


def _missing(wanted: Mapping[str, str], free: Mapping[str, str]) -> list[str]:
    """Default names of columns that the file must have and lacks: the required ones, and those renamed by the user."""
    return [name for name in free if name in _REQUIRED or wanted[name] != name]


def _advice(ours: str, wanted: Mapping[str, str], synonyms: Mapping[str, Sequence[str]], found: Sequence[str]) -> str:
    if wanted[ours] != ours:
        return f"data.columns.{ours} is '{wanted[ours]}', the file has {', '.join(found)}"
    if names := synonyms[ours]:
        how = f"set data.columns.{ours} {names[0]} (for data check: --columns.{ours} {names[0]})"
        return f"if it is '{names[0]}', {how}, or rename it"
    existing = f"found {', '.join(found)}"
    return existing if len(found) > 1 else f"{existing}; columns are separated by comma, semicolon or tab"


def _set(synonyms: Mapping[str, Sequence[str]], name: str) -> str:
    ours = next((ours for ours, names in synonyms.items() if name in names), None)
    return f" Rename it, or set data.columns.{ours} {name}" if ours else ""
