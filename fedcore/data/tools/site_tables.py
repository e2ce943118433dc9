"""The tables of `data check`: what each site has, and what its images are like."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_notes import names_of
from fedcore.data.tools.look import Look

Sites = Mapping[str, Sequence[tuple[Row, Look]]]
_WIDEST = 40
"""Letters of a cell that are never broken."""


def counts(sites: Sites) -> Table:
    """Images by split, patients, and how often each label occurs."""
    table = _table({"site": [*sites]})
    for title in ("train", "val", "test", "patients"):
        table.add_column(title, justify="right", no_wrap=True)
    told = {site: _labels([row for row, _ in pairs]) for site, pairs in sites.items()}
    _add(table, "labels", [line for lines in told.values() for line in lines])
    for site, pairs in sites.items():
        splits = Counter(row.split for row, _ in pairs)
        numbers = (str(splits[name] or "") for name in ("train", "val", "test"))
        table.add_row(site, *numbers, str(len({row.patient for row, _ in pairs})), "\n".join(told[site]))
    return table


def looks(sites: Sites) -> Table:
    """Sizes, geometry, kinds and intensities of the images that could be read."""
    of = {site: [look for _, look in pairs if look.shape] for site, pairs in sites.items()}
    columns = {
        "pixels": {site: [*_span(look.shape for look in found), *_colours(found)] for site, found in of.items()},
        "mm": {site: _spacing(found) for site, found in of.items()},
        "stored as": {site: _stored(found) for site, found in of.items()},
        "masks hold": {site: _structures(found) for site, found in of.items()},
        "1st-99th %": {site: _ends(found) for site, found in of.items()},
    }
    columns = {title: cells for title, cells in columns.items() if any(cells.values())}
    table = _table({"site": [*sites]})
    for title, cells in columns.items():
        _add(table, title, [word for lines in cells.values() for line in lines for word in line.split()])
    for site in sites:
        table.add_row(site, *("\n".join(cells[site]) for cells in columns.values()))
    return table


def _table(first: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, cells in first.items():
        table.add_column(title, overflow="fold", min_width=min(10, max(map(len, [title, *cells]))))
    return table


def _add(table: Table, title: str, unbroken: Iterable[str]) -> None:
    """A column as wide as the longest of what must stay in one line."""
    table.add_column(title, overflow="fold", min_width=min(_WIDEST, max(map(len, unbroken), default=0)))


def _labels(rows: Sequence[Row]) -> list[str]:
    labels = Counter(name for row in rows for name in names_of(row))
    masks = {"masks": sum(row.mask is not None for row in rows)}
    return [f"{name} {count}" for name, count in [*sorted(labels.items(), key=_by_number), *masks.items()] if count]


def _by_number(item: tuple[str, int]) -> tuple[int, str]:
    """2 before 10, and names after numbers in the order of the alphabet."""
    return (int(item[0]), "") if item[0].isdecimal() else (sys.maxsize, item[0])


def _ends(looks: Sequence[Look]) -> list[str]:
    if not looks:
        return []
    ends = min(look.low for look in looks), max(look.high for look in looks)
    return [" to ".join(f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" for value in ends)]


def _colours(looks: Sequence[Look]) -> list[str]:
    return [{1: "grey", 3: "colour"}.get(n, f"{n} channels") for n in sorted({look.channels for look in looks})]


def _span(shapes: Iterable[tuple[int, ...]]) -> list[str]:
    """The smallest and largest size of each axis, a line for each number of dimensions."""
    sizes = [tuple(map(float, shape)) for shape in shapes]
    return [" x ".join(_range(axis, ".0f") for axis in zip(*group, strict=True)) for group in _by_length(sizes)]


def _spacing(looks: Sequence[Look]) -> list[str]:
    """The least and greatest distance of pixels along each axis, and how many images do not say it."""
    known = [look.header.spacing for look in looks if look.header.spacing]
    unknown = len(looks) - len(known)
    spans = [" x ".join(_range(axis, ".3g") for axis in zip(*group, strict=True)) for group in _by_length(known)]
    return spans + ([f"unknown {unknown}"] if unknown and known else [])


def _by_length(tuples: Iterable[tuple[float, ...]]) -> list[list[tuple[float, ...]]]:
    groups: dict[int, list[tuple[float, ...]]] = {}
    for one in tuples:
        groups.setdefault(len(one), []).append(one)
    return list(groups.values())


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}..{high}"


def _stored(looks: Sequence[Look]) -> list[str]:
    """Modalities and orientations, with counts where there are several."""
    lines = []
    for found in (Counter(look.header.modality for look in looks), Counter(look.header.orientation for look in looks)):
        known = sorted((what, count) for what, count in found.items() if what)
        lines += [what if len(found) == 1 else f"{what} {count}" for what, count in known]
    return lines


def _structures(looks: Sequence[Look]) -> list[str]:
    """Class numbers of masks, and in how many masks each is."""
    found = Counter(number for look in looks for number in look.structures)
    return [f"{number} in {count}" for number, count in sorted(found.items())]
