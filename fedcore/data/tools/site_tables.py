"""The tables of `data check`: counts of images by site, and properties of the images."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_warnings import classes_of
from fedcore.data.tools.check_image import Checked, ImageCheck

_WIDEST = 40
"""Characters of a cell that are never wrapped."""


def count_table(sites: Checked) -> Table:
    """Images by split, patients, and how often each label occurs."""
    table = _table({"site": [*sites]})
    for title in ("train", "val", "test", "patients"):
        table.add_column(title, justify="right", no_wrap=True)
    labels = {site: _labels([row for row, _ in pairs]) for site, pairs in sites.items()}
    _add_column(table, "labels", [line for lines in labels.values() for line in lines])
    for site, pairs in sites.items():
        splits = Counter(row.split for row, _ in pairs)
        numbers = (str(splits[name] or "") for name in ("train", "val", "test"))
        table.add_row(site, *numbers, str(len({row.patient for row, _ in pairs})), "\n".join(labels[site]))
    return table


def image_table(sites: Checked) -> Table:
    """Sizes, geometry, kinds and intensities of the readable images."""
    of = {site: [check for _, check in pairs if check.shape] for site, pairs in sites.items()}
    columns = {
        "pixels": {site: [*_sizes(c.shape for c in checks), *_channels(checks)] for site, checks in of.items()},
        "mm": {site: _spacings(checks) for site, checks in of.items()},
        "stored as": {site: _stored(checks) for site, checks in of.items()},
        "mask values": {site: _structures(checks) for site, checks in of.items()},
        "intensity (1st to 99th percentile)": {site: _intensities(checks) for site, checks in of.items()},
    }
    columns = {title: cells for title, cells in columns.items() if any(cells.values())}
    table = _table({"site": [*sites]})
    for title, cells in columns.items():
        _add_column(table, title, [word for lines in cells.values() for line in lines for word in line.split()])
    for site in sites:
        table.add_row(site, *("\n".join(cells[site]) for cells in columns.values()))
    return table


def _table(first: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, cells in first.items():
        table.add_column(title, overflow="fold", min_width=min(10, max(map(len, [title, *cells]))))
    return table


def _add_column(table: Table, title: str, unbroken: Iterable[str]) -> None:
    """A column as wide as the longest text that must not be wrapped."""
    table.add_column(title, overflow="fold", min_width=min(_WIDEST, max(map(len, unbroken), default=0)))


def _labels(rows: Sequence[Row]) -> list[str]:
    labels = Counter(name for row in rows for name in classes_of(row))
    masks = {"masks": sum(row.mask is not None for row in rows)}
    return [f"{name} {count}" for name, count in [*sorted(labels.items(), key=_by_number), *masks.items()] if count]


def _by_number(item: tuple[str, int]) -> tuple[int, str]:
    """Sorts 2 before 10, and names after numbers, alphabetically."""
    return (int(item[0]), "") if item[0].isdecimal() else (sys.maxsize, item[0])


def _intensities(checks: Sequence[ImageCheck]) -> list[str]:
    if not checks:
        return []
    ends = min(check.low for check in checks), max(check.high for check in checks)
    return [" to ".join(f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" for value in ends)]


def _channels(checks: Sequence[ImageCheck]) -> list[str]:
    names = {1: "greyscale", 3: "RGB"}
    return [names.get(n, f"{n} channels") for n in sorted({check.channels for check in checks})]


def _sizes(shapes: Iterable[tuple[int, ...]]) -> list[str]:
    """The smallest and largest size of each axis, one line for each number of dimensions."""
    sizes = [tuple(map(float, shape)) for shape in shapes]
    return [" x ".join(_range(axis, ".0f") for axis in zip(*group, strict=True)) for group in _by_length(sizes)]


def _spacings(checks: Sequence[ImageCheck]) -> list[str]:
    """The smallest and largest pixel spacing along each axis, and how many images have none."""
    known = [check.header.spacing for check in checks if check.header.spacing]
    unknown = len(checks) - len(known)
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


def _stored(checks: Sequence[ImageCheck]) -> list[str]:
    """Modalities and orientations, with counts if there are several."""
    headers = [check.header for check in checks]
    lines = []
    for found in (Counter(header.modality for header in headers), Counter(header.orientation for header in headers)):
        known = sorted((what, count) for what, count in found.items() if what)
        lines += [what if len(found) == 1 else f"{what} {count}" for what, count in known]
    return lines


def _structures(checks: Sequence[ImageCheck]) -> list[str]:
    """Class numbers of masks, and in how many masks each occurs."""
    found = Counter(number for check in checks for number in check.structures)
    return [f"{number} in {count}" for number, count in sorted(found.items())]
