"""The manifest: a CSV with one row an image, checked as a whole before a pixel is read."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedcore.data.findings import canonical
from fedcore.data.io import npz
from fedcore.data.io.medmnist import labels_of, members
from fedcore.data.manifest.cells import is_missing, mended, notes_of
from fedcore.data.manifest.columns import OURS, Columns, header_of
from fedcore.data.manifest.consistency import faults_between, notes_between
from fedcore.data.manifest.csv_text import records
from fedcore.data.manifest.label_names import label_fault
from fedcore.data.manifest.paths import file_fault, found_at
from fedcore.data.manifest.row import Row
from fedcore.data.preprocess.slices import between_ends
from fedcore.errors import InputErrors

__all__ = ["SPLITS", "Manifest", "Row", "examine", "read_manifest"]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SITE_NAME = re.compile(r"\w[\w. -]*")
_LONGEST = 200
"""Bytes of a site's name, which becomes part of names of files; those hold 255."""
_ADVICE = "Mend the rows named above; the first row of the file counts as row 1."


@dataclass(frozen=True)
class Manifest:
    """All rows whose files are there, the classes found, and what is worth telling but no fault."""

    path: Path
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    has_split: bool
    faults: tuple[str, ...] = ()
    """What is wrong with the file's text, by row."""
    absent: tuple[tuple[Row, str], ...] = ()
    """Rows whose image or mask is not there or empty, and what is wrong with it."""

    def all_faults(self) -> list[str]:
        return [*self.faults, *(f"row {row.number}: {text}" for row, text in self.absent)]


def read_manifest(
    path: Path,
    columns: Columns = OURS,
    patients_are_global: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
) -> Manifest:
    """Reads and checks a manifest; images are looked for, not opened.

    Columns: image, site; optional split, label (of several findings `A|B`), mask, patient, position (of a slice:
    any number that rises along the volume, such as its number or the table's mm). Paths are relative to the
    manifest's folder. Comma, semicolon or tab; UTF-8 with or without a mark. An image that ends in .npz in MedMNIST's
    layout (train_images, train_labels, ...) stands for all the images in it.

    Args:
        path: The CSV.
        columns: What the file calls its columns.
        patients_are_global: Whether a number is the same patient at every site; else it is another one at each.
        on_error: With "skip", rows whose image or mask is missing or empty are left out, and told by `absent`.

    Raises:
        InputErrors: with every fault of the file and its row number.
    """
    found = examine(path, columns, patients_are_global)
    faults = list(found.faults) if on_error == "skip" and found.rows else found.all_faults()
    if faults:
        raise InputErrors(str(found.path), faults, _ADVICE)
    return found


def examine(path: Path, columns: Columns = OURS, patients_are_global: bool = False) -> Manifest:
    """As `read_manifest`, but faults of rows are part of what it gives.

    Raises:
        InputErrors: The file cannot be read, or its columns are not known.
    """
    path = Path(path).absolute()
    lines = records(path)
    header = header_of(next(lines, (1, []))[1], columns)
    if header.faults:
        raise InputErrors(str(path), header.faults)
    split_given = "split" in header.places
    reading = _Reading(path.parent, split_given, patients_are_global, notes=[*header.notes])
    written: list[dict[str, str]] = []
    rows: list[Row] = []
    for number, cells in lines:
        if len(cells) > header.count:
            told = f"row {number}: {len(cells)} cells, {header.count} columns; quote cells that hold a delimiter"
            reading.faults.append(told)
            continue
        written.append(header.record(cells))
        rows += reading.rows(number, mended(written[-1]))
    faults = [*reading.faults, *faults_between(rows, patients_are_global)]
    if not rows and not faults:
        faults = ["no rows; an image a row must follow the header"]
    notes = [*reading.notes, *notes_of(written, header.places)]
    notes += notes_between(rows, reading.patients, patients_are_global)
    there = [row for row in rows if row.number not in reading.absent]
    has_split = split_given or all(row.member for row in there)
    if not has_split:
        notes.append("no split column: every image is for training until a part is held out by patient")
    classes = tuple(sorted({row.label for row in there if row.label is not None}))
    return Manifest(
        path, tuple(_placed(there)), classes, tuple(dict.fromkeys(notes)), has_split, tuple(faults),
        tuple((row, text) for row in rows for text in reading.absent.get(row.number, ())),
    )  # fmt: skip


@dataclass
class _Reading:
    """Rows of one file as they are read, and what is found out meanwhile."""

    folder: Path
    split_given: bool
    global_patients: bool
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: dict[int, list[str]] = field(default_factory=dict)
    """What is wrong with files, by row."""
    patients: dict[int, str] = field(default_factory=dict)
    """Numbers of patients as they are written, by row."""

    def rows(self, number: int, record: Mapping[str, str]) -> list[Row]:
        """The images of one record: one, or all of an .npz; none where something is wrong."""
        faults = list(_faults(record, self.split_given))
        image, mask = (self._file(number, record[name]) for name in ("image", "mask"))
        if faults or image is None:
            self.faults += [f"row {number}: {fault}" for fault in [*faults, *self.absent.pop(number, [])]]
            return []
        split, site = SPLITS.get(record["split"].lower(), ""), record["site"]
        if record["patient"]:
            self.patients[number] = record["patient"]
        whose = record["patient"] or record["image"]
        row = Row(
            number, image, site, split or "train", canonical(record["label"]) or None, mask,
            whose if self.global_patients and record["patient"] else f"{site}/{whose}",
            position=float(record["position"]) if record["position"] else None,
        )  # fmt: skip
        return self._expanded(row, split) if _packed(record) and number not in self.absent else [row]

    def _file(self, number: int, cell: str) -> Path | None:
        if not cell:
            return None
        path = found_at(self.folder, cell)
        if fault := file_fault(path, self.folder, cell):
            self.absent.setdefault(number, []).append(fault)
        return path

    def _expanded(self, row: Row, split: str) -> list[Row]:
        """A row an image of an .npz in MedMNIST's layout; `split` is the only one wanted, '' all."""
        path = row.image
        try:
            shapes = npz.shapes(path)
            return [
                replace(row, split=word, label=label, member=member, index=index,
                        patient=f"{row.patient}#{member}[{index}]")
                for member, word in members(shapes).items() if split in ("", word)
                for index, label in enumerate(labels_of(path, word, shapes, self.notes))
            ]  # fmt: skip
        except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            self.faults.append(f"row {row.number}: {path.name}: {error}")
            return []


def _packed(record: Mapping[str, str]) -> bool:
    return record["image"].lower().endswith(".npz")


def _faults(record: Mapping[str, str], split_given: bool) -> Iterator[str]:
    """What is wrong with the text of one record."""
    site, split, position = record["site"], record["split"], record["position"]
    if not record["image"]:
        yield "image is empty"
    if not site:
        yield "site is empty"
    elif is_missing(site):
        yield f"site '{site}' is a word for a missing value; give the hospital a name"
    elif not _SITE_NAME.fullmatch(site):
        rule = "a site's name starts with a letter or digit and holds letters, digits, '.', '_', '-' and spaces"
        yield f"{rule}; got '{site}'"
    if (length := len(site.encode())) > _LONGEST:
        yield f"a site's name is at most {_LONGEST} bytes long; '{site[:20]}...' has {length}"
    if split_given and split.lower() not in SPLITS and (split or not _packed(record)):
        yield f"split must be train, val or test; got '{split}'"
    if position and not _is_number(position):
        yield f"position must be a number such as 12.5; got '{position}'"
    elif position and not record["patient"]:
        yield "position without patient; the slices of one patient make up a volume"
    if fault := label_fault(record["label"]):
        yield fault
    own = [name for name in ("label", "mask", "patient", "position") if record[name]]
    if _packed(record) and own:
        yield f"an .npz stands for many images and brings their labels; leave {', '.join(own)} empty"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _placed(rows: Sequence[Row]) -> list[Row]:
    """The rows with positions in [0, 1]: a patient's slices at a site count as one volume."""
    volumes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        if row.position is not None:
            volumes[row.site, row.patient].append(at)
    placed = list(rows)
    for places in volumes.values():
        depths = between_ends(np.array([rows[at].position for at in places]))
        for at, depth in zip(places, depths.tolist(), strict=True):
            placed[at] = replace(rows[at], position=depth)
    return placed
