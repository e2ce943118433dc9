"""Warnings on splits and classes: validation images without use, classes that are not trained."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from fedcore.data.findings import SEPARATOR
from fedcore.data.manifest.row import Row

_FEW = 20
"""Number of labelled images below which many classes are not unusual."""


def split_warnings(rows: Sequence[Row]) -> list[str]:
    """One line each, with counts and sites."""
    return [*_unused(rows), *_never_trained(rows), *_too_many(rows), *_apart(rows)]


def classes_of(row: Row) -> list[str]:
    """The label, or the single findings in it: there may be hundreds of sets of findings."""
    return row.label.split(SEPARATOR) if row.label else []


def _unused(rows: Sequence[Row]) -> Iterator[str]:
    if sites := Counter(row.site for row in rows if row.split == "val"):
        counts = ", ".join(f"{site} {count}" for site, count in sites.items())
        yield (
            f"split val: {sum(sites.values())} images ({counts}) are not used for training, scores or the choice of a "
            "round; only the audit of a synthetic set uses them, as held-out images"
        )


def _never_trained(rows: Sequence[Row]) -> Iterator[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name in classes_of(row):
            splits[name].add(row.split)
    for name, found in sorted(splits.items()):
        if "train" not in found:
            where = " and ".join(sorted(found))
            yield f"class '{name}' has no training image (only {where}) and cannot be learned"


def _too_many(rows: Sequence[Row]) -> Iterator[str]:
    labelled = [row.label for row in rows if row.label]
    names = {name for row in rows for name in classes_of(row)}
    if len(labelled) >= _FEW and len(names) > len(labelled) / 2:
        yield f"{len(names)} classes in {len(labelled)} labelled images; does the column 'label' contain classes?"


def _apart(rows: Sequence[Row]) -> Iterator[str]:
    classes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        classes[row.site].update(classes_of(row))
    labelled = {site: names for site, names in classes.items() if names}
    for site, names in labelled.items():
        others = [other for place, other in labelled.items() if place != site]
        if len(names) > 1 and others and names.isdisjoint(set().union(*others)):
            found = ", ".join(sorted(names)[:5])
            yield f"site '{site}' has no class of the other sites ({found}); does it use other class names?"
