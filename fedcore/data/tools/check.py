"""`fedpretrain data check`: prints tables, warnings and all errors of a manifest before a run uses it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fedcore.data.io.readers import Nan
from fedcore.data.manifest.columns import DEFAULT_COLUMNS, Columns
from fedcore.data.manifest.manifest import Manifest, parse_manifest
from fedcore.data.manifest.row import Row
from fedcore.data.preprocess.mask_values import check_mask_values
from fedcore.data.tools.check_image import Checked, ImageCheck, check_image, mask_values
from fedcore.data.tools.manifest_warnings import manifest_warnings
from fedcore.errors import InputErrors
from fedcore.tables import terminal

_THREADS = 4


def check_command(
    manifest: Path,
    quick: bool = False,
    columns: Columns = DEFAULT_COLUMNS,
    patients_are_global: bool = False,
    nan: Nan = "stop",
) -> int:
    """Checks a manifest and prints its content: 0 if every image can be used, else 2.

    Args:
        manifest: A CSV; see fedcore.data.manifest.manifest.
        quick: Check only the CSV and whether the files exist; do not read images.
        columns: The column names of the file.
        patients_are_global: A patient number means the same person at every site.
        nan: NaN pixels are an error, or become the image's least value (minimum).
    """
    return 2 if check(manifest, not quick, columns, patients_are_global, nan) else 0


def check(
    manifest: Path,
    deep: bool = True,
    columns: Columns = DEFAULT_COLUMNS,
    patients_are_global: bool = False,
    nan: Nan = "stop",
) -> int:
    """Prints tables of the sites, warnings and errors; returns the number of errors.

    `deep` reads every image and mask; memory is that of a few images.
    """
    from fedcore.data.tools.site_tables import count_table, image_table

    console = terminal()
    try:
        found = parse_manifest(manifest, columns, patients_are_global)
    except InputErrors as error:
        console.print(str(error), soft_wrap=True)
        return len(error.errors)
    sites: dict[str, list[tuple[Row, ImageCheck]]] = {}
    for row, checked in _check_images(found.rows, deep, nan):
        sites.setdefault(row.site, []).append((row, checked))
    if sites:
        console.print(count_table(sites))
    if any(checked.shape for pairs in sites.values() for _, checked in pairs):
        console.print(image_table(sites))
    mask_errors, mask_warnings = check_mask_values(mask_values(sites))
    errors = [*_errors(found, sites), *mask_errors]
    warnings = [*found.warnings, *manifest_warnings(sites), *mask_warnings]
    for title, lines in ((f"Warnings ({len(warnings)})", warnings), (f"Errors ({len(errors)})", errors)):
        if lines:
            console.print("\n".join([title, *(f"  {line}" for line in lines)]), soft_wrap=True)
    if not errors:
        console.print("No errors." if deep else "No errors in the CSV; images were not read.")
    return len(errors)


def _errors(found: Manifest, sites: Checked) -> list[str]:
    """All of them: of the text, of missing files, and of unreadable files."""
    unreadable = [(row, checked.error) for pairs in sites.values() for row, checked in pairs if checked.error]
    return found.all_errors() + [
        f"row {row.number}, {row.image.name}: {error}"
        for row, error in sorted(unreadable, key=lambda pair: pair[0].number)
    ]


def _check_images(rows: Sequence[Row], deep: bool, nan: Nan) -> Iterator[tuple[Row, ImageCheck]]:
    """Each row with its check, as soon as it is done; with a progress bar on a terminal."""
    if not deep:
        yield from ((row, ImageCheck()) for row in rows)
        return
    from rich.console import Console
    from rich.progress import Progress

    with (
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        yield from zip(
            rows,
            bars.track(pool.map(partial(check_image, nan=nan), rows), len(rows), description="reading images"),
            strict=True,
        )
