"""What a manifest holds, site by site, and everything that is wrong with it, before a run starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fedcore.data.io.readers import Nan
from fedcore.data.manifest.columns import OURS, Columns
from fedcore.data.manifest.manifest import Manifest, Row, examine
from fedcore.data.preprocess.mask_values import checked_masks
from fedcore.data.tools.look import Look, look, numbers_met
from fedcore.data.tools.manifest_warnings import cautions
from fedcore.data.tools.preview import preview
from fedcore.errors import InputErrors
from fedcore.tables import terminal

__all__ = ["check", "check_command", "preview"]

_THREADS = 4


def check_command(
    manifest: Path, quick: bool = False, columns: Columns = OURS, patients_are_global: bool = False, nan: Nan = "stop"
) -> int:
    """Checks a manifest and prints what it holds: 0 if every image can be used, else 2.

    Args:
        manifest: A CSV; see fedcore.data.manifest.manifest.
        quick: Only the CSV and whether the files exist; decode nothing.
        columns: What the file calls its columns.
        patients_are_global: A patient's number means the same person at every site.
        nan: NaN pixels are a fault, or take the image's least value (minimum).
    """
    return 2 if check(manifest, not quick, columns, patients_are_global, nan) else 0


def check(
    manifest: Path, deep: bool = True, columns: Columns = OURS, patients_are_global: bool = False, nan: Nan = "stop"
) -> int:
    """Prints tables of the sites, warnings and faults; gives the number of faults.

    `deep` decodes every image and mask; memory stays at a few images.
    """
    from fedcore.data.tools.site_tables import counts, looks

    console = terminal()
    try:
        found = examine(manifest, columns, patients_are_global)
    except InputErrors as faults:
        console.print(str(faults), soft_wrap=True)
        return len(faults.faults)
    sites: dict[str, list[tuple[Row, Look]]] = {}
    for row, told in _looked(found.rows, deep, nan):
        sites.setdefault(row.site, []).append((row, told))
    if sites:
        console.print(counts(sites))
    if any(told.shape for pairs in sites.values() for _, told in pairs):
        console.print(looks(sites))
    of_masks, doubts = checked_masks(numbers_met(sites))
    wrong = [*_faults(found, sites), *of_masks]
    warnings = [*cautions(sites), *doubts]
    for title, lines in (("Notes", found.notes), ("Warnings", warnings), (f"InputErrors ({len(wrong)})", wrong)):
        if lines:
            console.print("\n".join([title, *(f"  {line}" for line in lines)]), soft_wrap=True)
    if not wrong:
        console.print("No faults." if deep else "No faults in the CSV; the images were not opened.")
    return len(wrong)


def _faults(found: Manifest, sites: dict[str, list[tuple[Row, Look]]]) -> list[str]:
    """All of them: of the text, of files that are missing, and of files that cannot be read."""
    unread = [(row, told.fault) for pairs in sites.values() for row, told in pairs if told.fault]
    return found.all_faults() + [
        f"row {row.number}, {row.image.name}: {fault}" for row, fault in sorted(unread, key=lambda pair: pair[0].number)
    ]


def _looked(rows: Sequence[Row], deep: bool, nan: Nan) -> Iterator[tuple[Row, Look]]:
    """Each row with what it told, as soon as it is known; a bar counts on a terminal."""
    if not deep:
        yield from ((row, Look()) for row in rows)
        return
    from rich.console import Console
    from rich.progress import Progress

    with (
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        yield from zip(
            rows,
            bars.track(pool.map(partial(look, nan=nan), rows), len(rows), description="reading images"),
            strict=True,
        )
