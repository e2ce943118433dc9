"""The manifest: a CSV with one row an image, checked as a whole before a pixel is read."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedcore.data.findings import canonical
from fedcore.data.io import npz
from fedcore.data.slices import between_ends
from fedcore.errors import Faults

COLUMNS = ("image", "site", "split", "label", "mask", "patient", "position")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SITE_NAME = re.compile(r"\w[\w. -]*")
_LONGEST = 200
"""Bytes of a site's name, which becomes part of names of files; those hold 255."""
_ADVICE = "Mend the rows named above; the first row of the file counts as row 1."


@dataclass(frozen=True)
class Row:
    """One image of the manifest."""

    number: int
    """Row in the CSV as a spreadsheet shows it (the header is row 1)."""
    image: Path
    """Absolute; a folder is a DICOM series."""
    site: str
    split: str
    """train, val or test."""
    label: str | None
    mask: Path | None
    patient: str
    """The image's own name where the manifest tells no patient: every image is then its own patient."""
    member: str | None = None
    """The array of an .npz file, and `index` the place in it."""
    index: int | None = None
    position: float | None = None
    """Where in its volume a slice lies, in [0, 1] from the patient's least to the greatest at the site."""
    synthetic: bool = False
    """Drawn by a generator; the file's own levels say its intensities (`fedcore.data.io.levels`)."""


@dataclass(frozen=True)
class Manifest:
    """All rows, the classes found, and what is worth telling but no fault."""

    path: Path
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    has_split: bool


def read_manifest(path: Path) -> Manifest:
    """Reads and checks a manifest; images are looked for, not opened.

    Columns: image, site; optional split, label (of several findings `A|B`), mask, patient, position (of a slice:
    any number that rises along the volume, such as its number or the table's mm). Paths are relative to the
    manifest's folder. Comma, semicolon or tab; UTF-8 with or without a mark. An image that ends in .npz in MedMNIST's
    layout (train_images, train_labels, ...) stands for all the images in it.

    Raises:
        Faults: with every fault of the file and its row number.
    """
    path = Path(path).absolute()
    records = _records(path)
    _, header = next(records, (1, []))
    columns = [name.strip().lower() for name in header]
    faults, notes = _check_columns(columns)
    if faults:
        raise Faults(str(path), faults)
    rows: list[Row] = []
    for number, cells in records:
        if len(cells) > len(columns):
            faults.append(
                f"row {number}: {len(cells)} cells, {len(columns)} columns; quote cells that hold a delimiter"
            )
            continue
        record = dict.fromkeys(COLUMNS, "") | dict(zip(columns, map(str.strip, cells), strict=False))
        rows += _rows(number, record, "split" in columns, path.parent, faults, notes)
    faults += _check_together(rows)
    if not rows and not faults:
        faults.append("no rows; an image a row must follow the header")
    if faults:
        raise Faults(str(path), faults, _ADVICE)
    has_split = "split" in columns or all(row.member for row in rows)
    if not has_split:
        notes.append("no split column: every image is for training until a part is held out by patient")
    classes = tuple(sorted({row.label for row in rows if row.label is not None}))
    return Manifest(path, tuple(_placed(rows)), classes, tuple(dict.fromkeys(notes)), has_split)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of every row that is not blank, the header first."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Faults(str(path), [f"not UTF-8 text (byte {error.start}); save it as 'CSV UTF-8'"]) from None
    except OSError as error:
        raise Faults(str(path), [f"cannot be read: {error.strerror}; give the path of a CSV file"]) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise Faults(str(path), [f"not a text (NUL in line {line}); save it as 'CSV UTF-8'"])
    lines = text.lstrip().splitlines()
    if not lines:
        raise Faults(str(path), ["empty; a header such as 'image,site,split,label' must come first"])
    delimiter = max(",;\t", key=lines[0].count)
    number = 0
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1):
            if any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error as error:
        raise Faults(str(path), [f"row {number + 1}: not a CSV: {error}"]) from None


def _check_columns(columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """(faults, notes): a column must be known, or too far from the known ones to be a slip of the pen."""
    faults, ignored = [], []
    for name in dict.fromkeys(columns):
        close = difflib.get_close_matches(name, [known for known in COLUMNS if known not in columns], 1, 0.8)
        if columns.count(name) > 1:
            faults.append(f"column '{name}' stands {columns.count(name)} times")
        if name in COLUMNS:
            continue
        if close:
            faults.append(f"column '{name}' is unknown; did you mean '{close[0]}'?")
        else:
            ignored.append(f"'{name}'")
    missing = [name for name in ("image", "site") if name not in columns]
    faults += [f"column '{name}' is missing; found {', '.join(columns)}" for name in missing]
    return faults, [f"columns ignored: {', '.join(ignored)}"] if ignored else []


def _rows(
    number: int,
    record: Mapping[str, str],
    split_given: bool,
    folder: Path,
    faults: list[str],
    notes: list[str],
) -> list[Row]:
    """The images of one record: one, or all of an .npz; adds what is wrong to `faults`."""
    image, mask = folder / record["image"], folder / record["mask"] if record["mask"] else None
    packed = image.suffix.lower() == ".npz"
    split = SPLITS.get(record["split"].lower(), "")
    found = [] if record["image"] else ["image is empty"]
    found += [fault for path in (image, mask) if path and record["image"] and (fault := _file_fault(path, folder))]
    if not _SITE_NAME.fullmatch(record["site"]):
        rule = "a site's name starts with a letter or digit and holds letters, digits, '.', '_', '-' and spaces"
        found.append(f"{rule}; got '{record['site']}'" if record["site"] else "site is empty")
    if (length := len(record["site"].encode())) > _LONGEST:
        found.append(f"a site's name is at most {_LONGEST} bytes long; '{record['site'][:20]}...' has {length}")
    if split_given and not split and (record["split"] or not packed):
        found.append(f"split must be train, val or test; got '{record['split']}'")
    if record["position"] and not _is_number(record["position"]):
        found.append(f"position must be a number such as 12.5; got '{record['position']}'")
    elif record["position"] and not record["patient"]:
        found.append("position without patient; the slices of one patient make up a volume")
    faults += [f"row {number}: {fault}" for fault in found]
    if found:
        return []
    if packed:
        return _expanded(number, image, record["site"], split, faults, notes)
    label, patient = canonical(record["label"]) or None, record["patient"] or record["image"]
    position = float(record["position"]) if record["position"] else None
    return [Row(number, image, record["site"], split or "train", label, mask, patient, position=position)]


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


def _file_fault(path: Path, folder: Path) -> str:
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    try:
        empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
    except OSError:
        return f"{name} is missing"
    return f"{name} is empty (zero bytes or files)" if empty else ""


def _expanded(number: int, path: Path, site: str, split: str, faults: list[str], notes: list[str]) -> list[Row]:
    """A row an image of an .npz in MedMNIST's layout (Yang et al. 2023, arXiv 2110.14795)."""
    try:
        shapes = npz.shapes(path)
        members = {f"{word}_images": word for word in SPLITS.values() if f"{word}_images" in shapes}
        if not members:
            raise ValueError(f"no train_images, val_images or test_images; found {', '.join(shapes)}")
        rows = []
        for member, word in members.items():
            if split in ("", word):
                names = _labels(path, word, shapes, notes)
                rows += [
                    Row(number, path, site, word, label, None, f"{path.name}#{member}[{index}]", member, index)
                    for index, label in enumerate(names)
                ]
        return rows
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        faults.append(f"row {number}: {path.name}: {error}")
        return []


def _labels(path: Path, split: str, shapes: Mapping[str, tuple[int, ...]], notes: list[str]) -> list[str | None]:
    count, member = shapes[f"{split}_images"][0], f"{split}_labels"
    shape = shapes.get(member, ())
    if not shape:
        return [None] * count
    if shape[0] != count:
        raise ValueError(f"{count} {split}_images, but {shape[0]} {member}")
    if len(shape) > 2 or shape[1:] not in ((), (1,)):
        notes.append(f"{path.name}: {member} has shape {shape}, not (n, 1); its images stay without a label")
        return [None] * count
    return [str(label) for label in npz.labels(path, member).reshape(-1).tolist()]


def _check_together(rows: Sequence[Row]) -> list[str]:
    """Faults between rows: an image twice, a patient in two splits."""
    faults: dict[str, None] = {}
    images: dict[tuple[Path, str | None, int | None], Row] = {}
    patients: dict[str, Row] = {}
    for row in rows:
        first = images.setdefault((row.image, row.member, row.index), row)
        if first is not row:
            faults[f"row {row.number}: the same image as row {first.number}"] = None
        first = patients.setdefault(row.patient, row)
        if first.split != row.split:
            faults[
                f"row {row.number}: patient in {row.split}, but in {first.split} in row {first.number}; "
                "all images of a patient belong to one split"
            ] = None
    return list(faults)
