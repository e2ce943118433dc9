"""The manifest: a CSV with one row per image, checked as a whole before any pixel is read."""

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

from fedcore.data.findings import normalise_label
from fedcore.data.io import npz
from fedcore.data.io.medmnist import labels_of, members
from fedcore.data.manifest.cells import cell_warnings, cleaned, is_missing
from fedcore.data.manifest.columns import DEFAULT_COLUMNS, Columns, parse_header
from fedcore.data.manifest.consistency import consistency_errors, patient_warnings
from fedcore.data.manifest.csv_text import read_rows
from fedcore.data.manifest.label_names import label_error
from fedcore.data.manifest.paths import file_error, resolve_path
from fedcore.data.manifest.row import Row
from fedcore.data.preprocess.slices import normalise_positions
from fedcore.errors import InputErrors

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SITE_NAME = re.compile(r"\w[\w. -]*")
_LONGEST = 200
"""Bytes of a site's name, which becomes part of file names of at most 255 bytes."""
_ADVICE = "Fix these rows; the first row of the file is row 1."


@dataclass(frozen=True)
class Manifest:
    """All rows whose files exist, the classes found, warnings and errors."""

    path: Path
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    has_split: bool
    errors: tuple[str, ...] = ()
    """Errors in the text of the file, by row."""
    missing: tuple[tuple[Row, str], ...] = ()
    """Rows whose image or mask does not exist or is empty, with the reason."""

    def all_errors(self) -> list[str]:
        return [*self.errors, *(f"row {row.number}: {text}" for row, text in self.missing)]


def read_manifest(
    path: Path,
    columns: Columns = DEFAULT_COLUMNS,
    patients_are_global: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
) -> Manifest:
    """Reads and checks a manifest; image files must exist and are not opened.

    Columns: image, site; optional split, label (several findings as `A|B`), mask, patient, position (of a slice: any
    number that rises along the volume, such as its number or the table position in mm). Paths are relative to the
    folder of the manifest. The delimiter is comma, semicolon or tab; the text is UTF-8 with or without a byte order
    mark. An image that ends in .npz, in MedMNIST's layout (train_images, train_labels, ...), stands for all images in
    it.

    Args:
        path: The CSV.
        columns: The column names of the file.
        patients_are_global: Whether a number is the same patient at every site; else it is a different one at each.
        on_error: With "skip", rows whose image or mask is missing or empty are left out and listed in `missing`.

    Raises:
        InputErrors: All errors of the file, with row numbers.
    """
    found = parse_manifest(path, columns, patients_are_global)
    errors = list(found.errors) if on_error == "skip" and found.rows else found.all_errors()
    if errors:
        raise InputErrors(str(found.path), errors, _ADVICE)
    return found


def parse_manifest(path: Path, columns: Columns = DEFAULT_COLUMNS, patients_are_global: bool = False) -> Manifest:
    """As `read_manifest`, but errors of rows are returned.

    Raises:
        InputErrors: The file cannot be read, or its columns are not known.
    """
    path = Path(path).absolute()
    lines = read_rows(path)
    header = parse_header(next(lines, (1, []))[1], columns)
    if header.errors:
        raise InputErrors(str(path), header.errors)
    split_given = "split" in header.places
    parser = _Parser(path.parent, split_given, patients_are_global, warnings=[*header.warnings])
    written: list[dict[str, str]] = []
    rows: list[Row] = []
    for number, cells in lines:
        if len(cells) > header.count:
            text = f"row {number}: {len(cells)} cells, {header.count} columns; quote cells that contain a delimiter"
            parser.errors.append(text)
            continue
        written.append(header.record(cells))
        rows += parser.rows(number, cleaned(written[-1]))
    errors = [*parser.errors, *consistency_errors(rows, patients_are_global)]
    if not rows and not errors:
        errors = ["no rows; one row per image must follow the header"]
    warnings = [*parser.warnings, *cell_warnings(written, header.places)]
    warnings += patient_warnings(rows, parser.patients, patients_are_global)
    existing = [row for row in rows if row.number not in parser.missing]
    has_split = split_given or all(row.member for row in existing)
    if not has_split:
        warnings.append("no column split: all images are for training until data.test_fraction holds out patients")
    classes = tuple(sorted({row.label for row in existing if row.label is not None}))
    return Manifest(
        path, tuple(_with_positions(existing)), classes, tuple(dict.fromkeys(warnings)), has_split, tuple(errors),
        tuple((row, text) for row in rows for text in parser.missing.get(row.number, ())),
    )  # fmt: skip


@dataclass
class _Parser:
    """Turns the records of one file into rows, and collects errors and warnings."""

    folder: Path
    split_given: bool
    global_patients: bool
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: dict[int, list[str]] = field(default_factory=dict)
    """Errors of files, by row number."""
    patients: dict[int, str] = field(default_factory=dict)
    """Patient numbers as written, by row number."""

    def rows(self, number: int, record: Mapping[str, str]) -> list[Row]:
        """The images of one record: one, or all of an .npz; none if it has an error."""
        errors = list(_record_errors(record, self.split_given))
        image, mask = (self._file(number, record[name]) for name in ("image", "mask"))
        if errors or image is None:
            self.errors += [f"row {number}: {error}" for error in [*errors, *self.missing.pop(number, [])]]
            return []
        split, site = SPLITS.get(record["split"].lower(), ""), record["site"]
        if record["patient"]:
            self.patients[number] = record["patient"]
        patient = record["patient"] or record["image"]
        row = Row(
            number, image, site, split or "train", normalise_label(record["label"]) or None, mask,
            patient if self.global_patients and record["patient"] else f"{site}/{patient}",
            position=float(record["position"]) if record["position"] else None,
        )  # fmt: skip
        return self._npz_rows(row, split) if _is_npz(record) and number not in self.missing else [row]

    def _file(self, number: int, cell: str) -> Path | None:
        if not cell:
            return None
        path = resolve_path(self.folder, cell)
        if error := file_error(path, self.folder, cell):
            self.missing.setdefault(number, []).append(error)
        return path

    def _npz_rows(self, row: Row, split: str) -> list[Row]:
        """One row per image of an .npz in MedMNIST's layout, of one split; of all if `split` is ''."""
        path = row.image
        try:
            shapes = npz.shapes(path)
            return [
                replace(row, split=name, label=label, member=member, index=index,
                        patient=f"{row.patient}#{member}[{index}]")
                for member, name in members(shapes).items() if split in ("", name)
                for index, label in enumerate(labels_of(path, name, shapes, self.warnings))
            ]  # fmt: skip
        except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            self.errors.append(f"row {row.number}: {path.name}: {error}")
            return []


def _is_npz(record: Mapping[str, str]) -> bool:
    return record["image"].lower().endswith(".npz")


def _record_errors(record: Mapping[str, str], split_given: bool) -> Iterator[str]:
    """Errors in the text of one record."""
    site, split, position = record["site"], record["split"], record["position"]
    if not record["image"]:
        yield "image is empty"
    if not site:
        yield "site is empty"
    elif is_missing(site):
        yield f"site '{site}' is a word for a missing value; give the hospital a name"
    elif not _SITE_NAME.fullmatch(site):
        rule = (
            "a site's name must start with a letter or digit and contain only letters, digits, '.', '_', '-' and spaces"
        )
        yield f"{rule}; got '{site}'"
    if (length := len(site.encode())) > _LONGEST:
        yield f"a site's name must have at most {_LONGEST} bytes; '{site[:20]}...' has {length}"
    if split_given and split.lower() not in SPLITS and (split or not _is_npz(record)):
        yield f"split must be train, val or test; got '{split}'"
    if position and not _is_number(position):
        yield f"position must be a number such as 12.5; got '{position}'"
    elif position and not record["patient"]:
        yield "position without patient; the slices of one patient make up a volume"
    if error := label_error(record["label"]):
        yield error
    own = [name for name in ("label", "mask", "patient", "position") if record[name]]
    if _is_npz(record) and own:
        yield f"an .npz contains many images and their labels; leave {', '.join(own)} empty"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _with_positions(rows: Sequence[Row]) -> list[Row]:
    """The rows with positions in [0, 1]; the slices of a patient at a site count as one volume."""
    volumes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        if row.position is not None:
            volumes[row.site, row.patient].append(at)
    found = list(rows)
    for places in volumes.values():
        positions = normalise_positions(np.array([rows[at].position for at in places]))
        for at, position in zip(places, positions.tolist(), strict=True):
            found[at] = replace(rows[at], position=position)
    return found
