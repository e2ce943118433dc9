"""What is wrong, or worth a word, between the rows of a manifest: images twice, patients in two splits, names alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedcore.data.manifest.cells import rows_told
from fedcore.data.manifest.label_names import alike, alike_faults
from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_notes import names_of


def faults_between(rows: Sequence[Row], global_patients: bool) -> list[str]:
    """An image twice; a patient in two splits; classes or sites that seem to be one."""
    faults = list(dict.fromkeys([*_twice(rows), *_in_two_splits(rows, global_patients)]))
    faults += alike_faults("sites", _rows_by((row.site, row) for row in rows))
    return faults + alike_faults("classes", _rows_by((name, row) for row in rows for name in names_of(row)))


def notes_between(rows: Sequence[Row], patients: Mapping[int, str], global_patients: bool) -> list[str]:
    """Of `patients`, their numbers as the manifest has them, by row: some at several sites, or some nearly alike."""
    rows_of: dict[str, list[Row]] = defaultdict(list)
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        if number := patients.get(row.number):
            rows_of[number].append(row)
            numbers["" if global_patients else row.site, number].add(row.number)
    notes = []
    shared = [found for found in rows_of.values() if len({row.site for row in found}) > 1]
    if shared and not global_patients:
        apart = sum(len({row.split for row in found}) > 1 for found in shared)
        notes.append(
            f"{len(shared)} patient number{'s stand' if len(shared) > 1 else ' stands'} at several sites, and count as "
            "other patients at each; if they are the same people, set data.patients_are_global true"
            + (f" ({apart} of them then in several splits)" if apart else "")
        )
    near = [group for place in {place for place, _ in numbers} for group in alike(_of(numbers, place))]
    if near:
        told = rows_told(number for group in near for rows_ in group.values() for number in rows_)
        notes.append(
            f"{len(near)} patient number{'s are' if len(near) > 1 else ' is'} written in several ways, as 7 and 007 "
            f"({told}), and count as several patients; write them in one way"
        )
    return notes


def _of(numbers: Mapping[tuple[str, str], set[int]], place: str) -> dict[str, Iterable[int]]:
    return {number: rows for (where, number), rows in numbers.items() if where == place}


def _twice(rows: Sequence[Row]) -> Iterable[str]:
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
        advice = "all images of a patient belong to one split"
        if here and global_patients:
            advice += "; if these are two people, set data.patients_are_global false"
        found = f"patient in {row.split}{here}, but in {first.split}{there} in row {first.number}"
        yield f"row {row.number}: {found}; {advice}"


def _rows_by(pairs: Iterable[tuple[str, Row]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for name, row in pairs:
        found[name].add(row.number)
    return found
