"""What a manifest holds, site by site, and everything that is wrong with it, before a run starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.findings import SEPARATOR
from fedcore.data.io.masks import read_mask_of
from fedcore.data.io.readers import ImageFault, read_image
from fedcore.data.manifest import Manifest, Row, read_manifest
from fedcore.data.preview import preview
from fedcore.errors import Faults

__all__ = ["check", "check_command", "preview"]

_THREADS = 4
_SCALES_APART = 100


@dataclass(frozen=True)
class Look:
    """What one image told; only `fault` of one that cannot be used."""

    shape: tuple[int, ...] = ()
    channels: int = 0
    low: float = 0.0
    """1st and 99th (`high`) percentile of the raw intensities."""
    high: float = 0.0
    constant: bool = False
    fault: str = ""


def check_command(manifest: Path, quick: bool = False) -> int:
    """Checks a manifest and prints what it holds: 0 if every image can be used, else 2.

    Args:
        manifest: A CSV; see fedcore.data.manifest.
        quick: Only the CSV and whether the files exist; decode nothing.
    """
    return 2 if check(manifest, deep=not quick) else 0


def check(manifest: Path, deep: bool = True) -> int:
    """Prints a table of the sites, warnings and faults; gives the number of faults.

    `deep` decodes every image and mask; memory stays at a few images.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    try:
        found = read_manifest(manifest)
    except Faults as faults:
        console.print(str(faults), soft_wrap=True)
        return len(faults.faults)
    sites: dict[str, list[tuple[Row, Look]]] = {}
    for row, look in _looked(found.rows, deep):
        sites.setdefault(row.site, []).append((row, look))
    _print_table(console, sites)
    faults_found = [f"row {row.number}, {row.image.name}: {look.fault}" for row, look in _all(sites) if look.fault]
    for title, lines in (
        ("Notes", found.notes),
        ("Warnings", _warnings(found, sites)),
        (f"Faults ({len(faults_found)})", faults_found),
    ):
        if lines:
            console.print("\n".join([title, *(f"  {line}" for line in lines)]), soft_wrap=True)
    if not faults_found:
        console.print("No faults." if deep else "No faults in the CSV; the images were not opened.")
    return len(faults_found)


def _looked(rows: Sequence[Row], deep: bool) -> Iterable[tuple[Row, Look]]:
    if not deep:
        return ((row, Look()) for row in rows)
    with ThreadPoolExecutor(_THREADS) as pool:
        return zip(rows, list(pool.map(_look, rows)), strict=True)


def _look(row: Row) -> Look:
    try:
        image = read_image(row.image, row.member, row.index)
        shape = image.shape[1:]
        if row.mask is not None:
            read_mask_of(row.image, row.mask, shape)
    except ImageFault as fault:
        return Look(fault=str(fault))
    low, high = (float(value) for value in np.percentile(image, (1, 99)))
    colours = 1 if (image == image[:1]).all() else image.shape[0]
    return Look(shape, colours, low, high, constant=bool(image.min() == image.max()))


def _all(sites: dict[str, list[tuple[Row, Look]]]) -> list[tuple[Row, Look]]:
    return sorted((pair for pairs in sites.values() for pair in pairs), key=lambda pair: pair[0].number)


def _print_table(console: Any, sites: dict[str, list[tuple[Row, Look]]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("site", "train", "val", "test", "patients"):
        table.add_column(column, no_wrap=True, justify="left" if column == "site" else "right")
    for column in ("labels", "pixels", "1-99 %"):
        table.add_column(column, min_width=9, overflow="fold")
    for site, pairs in sites.items():
        rows, looks = [row for row, _ in pairs], [look for _, look in pairs if look.shape]
        splits = Counter(row.split for row in rows)
        labels = Counter(name for row in rows for name in _names(row))
        masks = {"masks": sum(row.mask is not None for row in rows)}
        told = [f"{name} {count}" for name, count in [*sorted(labels.items()), *masks.items()] if count]
        table.add_row(
            site,
            *(str(splits[name] or "") for name in ("train", "val", "test")),
            str(len({row.patient for row in rows})),
            "\n".join(told),
            "\n".join([_span(look.shape for look in looks), *_colours(looks)]),
            _ends(looks),
        )
    console.print(table)


def _names(row: Row) -> list[str]:
    """The label, or the findings in it: of sets of findings there may be hundreds."""
    return row.label.split(SEPARATOR) if row.label else []


def _ends(looks: Sequence[Look]) -> str:
    if not looks:
        return ""
    ends = min(look.low for look in looks), max(look.high for look in looks)
    return " to ".join(f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" for value in ends)


def _colours(looks: Sequence[Look]) -> list[str]:
    return [{1: "grey", 3: "colour"}.get(n, f"{n} channels") for n in sorted({look.channels for look in looks})]


def _span(shapes: Iterable[tuple[int, ...]]) -> str:
    """The smallest and largest size of each axis, of images of equal dimensions."""
    by_dims: dict[int, list[tuple[int, ...]]] = {}
    for shape in shapes:
        by_dims.setdefault(len(shape), []).append(shape)
    spans = []
    for group in by_dims.values():
        ends = [(min(axis), max(axis)) for axis in zip(*group, strict=True)]
        spans.append(" x ".join(str(low) if low == high else f"{low}..{high}" for low, high in ends))
    return " and ".join(spans)


def _warnings(manifest: Manifest, sites: dict[str, list[tuple[Row, Look]]]) -> list[str]:
    """What is no fault, but may spoil a run."""
    lines = [f"row {row.number}, {row.image.name}: constant image" for row, look in _all(sites) if look.constant]
    known = {name for row in manifest.rows for name in _names(row)}
    for site, pairs in sites.items():
        training = sum(row.split == "train" for row, _ in pairs)
        if training == 1:
            lines.append(f"site '{site}' has one image for training; it is left out where batch norm needs two")
        if missing := known - {name for row, _ in pairs for name in _names(row)}:
            lines.append(f"site '{site}' has no image of {', '.join(sorted(missing))}")
        if training == 0:
            lines.append(f"site '{site}' has no image for training")
    looks = [look for _, look in _all(sites) if look.shape]
    if len({len(look.shape) for look in looks}) > 1:
        lines.append("2D and 3D images in one manifest; a run takes one of them")
    if len(channels := {look.channels for look in looks}) > 1:
        lines.append(f"images of {' and '.join(map(str, sorted(channels)))} channels; grey is repeated to colour")
    return lines + _scales(sites)


def _scales(sites: dict[str, list[tuple[Row, Look]]]) -> list[str]:
    """Of each site the typical spread of intensities; far apart they need scaling image by image."""
    spreads = {}
    for site, pairs in sites.items():
        if wide := [look.high - look.low for _, look in pairs if look.high > look.low]:
            spreads[site] = float(np.median(wide))
    if not spreads:
        return []
    least, most = min(spreads, key=spreads.__getitem__), max(spreads, key=spreads.__getitem__)
    ratio = spreads[most] / spreads[least]
    if ratio <= _SCALES_APART:
        return []
    return [
        f"intensities of '{most}' spread {ratio:.0f} times as wide as those of '{least}'; "
        "keep the scaling by percentiles (the default), a fixed window would blank one of them"
    ]
