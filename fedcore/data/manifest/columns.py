"""Which column of a manifest holds what, under our names or the file's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Columns:
    """Names of the manifest's columns, where they are not ours; case and blanks around them do not matter."""

    image: str = "image"
    """The column with the path of the image."""
    site: str = "site"
    """The column with the hospital."""
    split: str = "split"
    """The column with train, val or test."""
    label: str = "label"
    """The column with the class, or with findings as in A|B."""
    mask: str = "mask"
    """The column with the path of the mask."""
    patient: str = "patient"
    """The column with the patient's number or name."""
    position: str = "position"
    """The column with the place of a slice in its volume."""


OURS = Columns()
NAMES = tuple(field.name for field in fields(Columns))
_REQUIRED = ("image", "site")
_OTHER_WORDS = {
    "image": "path file filename filepath imagepath imagefile imagename img imgpath scan volume series",
    "site": "hospital center centre institution institute clinic client",
    "split": "set subset fold partition phase",
    "label": "class target diagnosis category finding findings findinglabels dx y",
    "mask": "segmentation seg labelmap maskpath maskfile annotation",
    "patient": "pid patientid patientnumber subject subjectid person personid mrn",
    "position": "slice sliceindex slicenumber slicelocation",
}
"""What others call them, without blanks, `_` and `-`."""


@dataclass(frozen=True)
class Header:
    """The columns of one file."""

    places: Mapping[str, int]
    """Where those stand that it has, by our names."""
    count: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    def record(self, cells: Sequence[str]) -> dict[str, str]:
        """A row's cells by our names; '' where it has none."""
        found = {name: cells[at] for name, at in self.places.items() if at < len(cells)}
        return dict.fromkeys(NAMES, "") | found


def header_of(cells: Sequence[str], columns: Columns) -> Header:
    """A column must be known, or too far from the known ones to be a slip of the pen."""
    found = [cell.lower() for cell in cells]
    wanted = {name: getattr(columns, name).strip().lower() for name in NAMES}
    places = {name: found.index(theirs) for name, theirs in wanted.items() if theirs in found}
    faults = [f"column '{name}' stands {found.count(name)} times" for name in _twice(found) if name]
    faults += [f"data.columns takes column '{name}' for two things" for name in _twice(list(wanted.values()))]
    free = {name: theirs for name, theirs in wanted.items() if name not in places}
    others = [name for name in dict.fromkeys(found) if name and name not in wanted.values()]
    slips = {name: close[0] for name in others if (close := difflib.get_close_matches(name, free.values(), 1, 0.8))}
    synonyms = {ours: [name for name in others if ours in free and _means(name, ours)] for ours in NAMES}
    faults += [
        f"column '{name}' is missing; {_advice(name, wanted, synonyms, found)}" for name in _lacking(wanted, free)
    ]
    told = {name for ours in _REQUIRED for name in synonyms[ours]}
    faults += [
        f"column '{name}' is unknown; did you mean '{close}'?{_set(synonyms, name)}"
        for name, close in slips.items()
        if name not in told
    ]
    ignored = [name for name in others if name not in slips]
    notes = [f"columns ignored: {', '.join(map(repr, ignored))}"] if ignored else []
    notes += [
        f"column '{name}' is ignored; if it holds what we call {ours}, set data.columns.{ours} {name}"
        for ours, names in synonyms.items()
        for name in names
        if name in ignored
    ]
    return Header(places, len(found), tuple(faults), tuple(notes))


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _means(theirs: str, ours: str) -> bool:
    return "".join(mark for mark in theirs if mark.isalnum()) in _OTHER_WORDS[ours].split()


def _lacking(wanted: Mapping[str, str], free: Mapping[str, str]) -> list[str]:
    """Of our names, those that the file must have: two always, others where their column was named."""
    return [name for name in free if name in _REQUIRED or wanted[name] != name]


def _advice(ours: str, wanted: Mapping[str, str], synonyms: Mapping[str, Sequence[str]], found: Sequence[str]) -> str:
    if wanted[ours] != ours:
        return f"data.columns.{ours} asks for '{wanted[ours]}', the file has {', '.join(found)}"
    if names := synonyms[ours]:
        how = f"set data.columns.{ours} {names[0]} (of data check: --columns.{ours} {names[0]})"
        return f"'{names[0]}' may be it: {how}, or rename it"
    told = f"found {', '.join(found)}"
    return told if len(found) > 1 else f"{told}; columns are set apart by comma, semicolon or tab"


def _set(synonyms: Mapping[str, Sequence[str]], name: str) -> str:
    ours = next((ours for ours, names in synonyms.items() if name in names), None)
    return f" Rename it, or set data.columns.{ours} {name}" if ours else ""
