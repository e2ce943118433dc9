"""Consistency of the rows of a manifest: duplicate images, patients in two splits, similar names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedcore.data.manifest.cells import format_rows
from fedcore.data.manifest.label_names import similar_name_errors, similar_names
from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_warnings import classes_of


def consistency_errors(rows: Sequence[Row], global_patients: bool) -> list[str]:
    """Duplicate images; patients in two splits; classes or sites whose names are nearly equal."""
    errors = list(dict.fromkeys([*_duplicates(rows), *_in_two_splits(rows, global_patients)]))
    errors += similar_name_errors("sites", _rows_by((row.site, row) for row in rows))
    return errors + similar_name_errors("classes", _rows_by((name, row) for row in rows for name in classes_of(row)))


def patient_warnings(rows: Sequence[Row], patients: Mapping[int, str], global_patients: bool) -> list[str]:
    """Patient numbers that occur at several sites, and numbers that are nearly equal.

    Args:
        rows: The rows of the manifest.
        patients: Patient numbers as written in the manifest, by row number.
        global_patients: Whether a number means the same person at every site.
    """
    rows_of: dict[str, list[Row]] = defaultdict(list)
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        if number := patients.get(row.number):
            rows_of[number].append(row)
            numbers["" if global_patients else row.site, number].add(row.number)
    warnings = []
    shared = [found for found in rows_of.values() if len({row.site for row in found}) > 1]
    if shared and not global_patients:
        split = sum(len({row.split for row in found}) > 1 for found in shared)
        warnings.append(
            f"{len(shared)} patient number{'s occur' if len(shared) > 1 else ' occurs'} at several sites and count as "
            "different patients at each; if they are the same people, set data.patients_are_global true"
            + (f" ({split} of them are then in several splits)" if split else "")
        )
    near = [group for site in {site for site, _ in numbers} for group in similar_names(_of(numbers, site))]
    if near:
        where = format_rows(number for group in near for rows_ in group.values() for number in rows_)
        warnings.append(
            f"{len(near)} patient number{'s are' if len(near) > 1 else ' is'} written in several ways, as 7 and 007 "
            f"({where}), and count as several patients; write them in one way"
        )
    return warnings


def _of(numbers: Mapping[tuple[str, str], set[int]], site: str) -> dict[str, Iterable[int]]:
    return {number: rows for (where, number), rows in numbers.items() if where == site}


def _duplicates(rows: Sequence[Row]) -> Iterable[str]:
    images: dict[tuple[Path, str | None, int | None], Row] = {}
    for row in rows:
        first = images.setdefault((row.image, row.member, row.index), row)
        if first is not row:
            yield f"row {row.number}: the same image as row {first.number}"


def _in_two_splits(rows: Sequence[Row], global_patients: bool) -> Iterable[str]:
    patients: dict[str, Row] = {}
    for row in rows:
        first = patients.setdefault(row.patient, row)
        if first.split == row.split:
            continue
        here, there = (f" at site '{r.site}'" if first.site != row.site else "" for r in (row, first))
        advice = "all images of a patient must be in one split"
        if here and global_patients:
            advice += "; if these are different people, set data.patients_are_global false"
        found = f"patient in {row.split}{here}, but in {first.split}{there} in row {first.number}"
        yield f"row {row.number}: {found}; {advice}"


def _rows_by(pairs: Iterable[tuple[str, Row]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for name, row in pairs:
        found[name].add(row.number)
    return found
