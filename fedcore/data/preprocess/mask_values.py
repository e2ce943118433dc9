"""The numbers in the masks of a manifest, and the meaning of 255, which is the same for all of its masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fedcore.data.cache.cache import VERSION
from fedcore.data.cache.file_index import FileIndex
from fedcore.data.cache.folder import default_folder, open_cache
from fedcore.data.io.error import ImageError
from fedcore.data.io.masks import read_mask
from fedcore.data.manifest.row import Row
from fedcore.data.mask_classes import UNLABELED, Mask255
from fedcore.errors import InputErrors

MaskValues = Mapping[str, Counter[tuple[int, ...]]]
"""By site, how many masks contain exactly these numbers."""
_THREADS = 4
_SPARSE = 8


def read_mask_values(rows: Sequence[Row], folder: Path | None = None) -> MaskValues:
    """The numbers of all readable masks; results are stored in `folder`, the cache."""
    place = folder or default_folder()
    masks = [row for row in rows if row.mask]
    found: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    if not masks:
        return found
    with open_cache(place):
        index = FileIndex(place / "known.json")
        with ThreadPoolExecutor(_THREADS) as pool:
            for row, numbers in zip(masks, pool.map(lambda row: _numbers(row, index), masks), strict=True):
                if numbers:
                    found[row.site][tuple(numbers)] += 1
        index.save()
    return dict(found)


def infer_mask_255(values: MaskValues) -> Mask255:
    """`class` if no mask contains a number other than 0 and 255, else `unlabelled`.

    Raises:
        InputErrors: All masks are 255 everywhere, or a site has only 0 and 255 while others have further numbers.
    """
    of_sites = {site: set().union(*sets) for site, sets in values.items()}
    of_all = set().union(*of_sites.values())
    if UNLABELED not in of_all:
        return "unlabelled"
    if of_all == {UNLABELED}:
        errors = [f"site '{site}': its masks are {UNLABELED} everywhere" for site in of_sites]
    elif of_all == {0, UNLABELED}:
        return "class"
    else:
        others = _listed(of_all - {0, UNLABELED})
        errors = [
            f"site '{site}': its masks contain only {_listed(numbers)}, masks of other sites also {others}"
            for site, numbers in of_sites.items()
            if UNLABELED in numbers and numbers <= {0, UNLABELED}
        ]
    if errors:
        advice = "Set data.mask_255 to class (255 is a structure, class 1) or to unlabelled (255 is not annotated)."
        raise InputErrors("masks", errors, advice)
    return "unlabelled"


def check_class_numbers(values: MaskValues, mask_255: Mask255) -> list[str]:
    """Warnings on class numbers that no mask contains, since a segmenter has an output for each.

    Raises:
        InputErrors: Masks contain fewer than one in eight of the numbers up to the greatest, as masks of 0 and 128.
    """
    stored = set().union(*(set().union(*sets) for sets in values.values()))
    numbers = {1 if number == UNLABELED else number for number in stored if number != UNLABELED or mask_255 == "class"}
    classes = numbers - {0}
    missing = max(classes, default=0) - len(classes)
    if not missing:
        return []
    found = f"masks contain the class numbers {_listed(classes)}; {missing} below {max(classes)} do not occur"
    if _SPARSE * len(classes) < max(classes) and max(classes) > _SPARSE:
        raise InputErrors("masks", [found], "Number the classes 1, 2, 3 and so on.")
    return [f"{found}, but a segmenter has an output for each"]


def mask_255_warnings(values: MaskValues, mask_255: Mask255) -> list[str]:
    """The meaning of 255 in masks where it may be unexpected: counts of masks by site."""
    whole = {site: sets[UNLABELED,] for site, sets in values.items() if sets[UNLABELED,]}
    if mask_255 == "class":
        return [
            f"site '{site}': {count} mask{'s' * (count > 1)} of {UNLABELED} everywhere, treated as class 1"
            for site, count in whole.items()
        ]
    some = sum(count for sets in values.values() for numbers, count in sets.items() if UNLABELED in numbers)
    return [f"{UNLABELED} in masks means not annotated ({some} masks)"] if some else []


def check_mask_values(values: MaskValues) -> tuple[list[str], list[str]]:
    """(errors, warnings) about the numbers of a manifest's masks, for `data check`."""
    try:
        mask_255, warnings = infer_mask_255(values), []
    except InputErrors as found:
        mask_255 = "unlabelled"
        warnings = [f"{error}; a run needs data.mask_255 class or unlabelled" for error in found.errors]
    try:
        return [], [*warnings, *check_class_numbers(values, mask_255), *mask_255_warnings(values, mask_255)]
    except InputErrors as found:
        return list(found.errors), warnings


def _numbers(row: Row, index: FileIndex) -> list[int] | None:
    assert row.mask, "the row has a mask"
    mask = row.mask

    def read() -> list[int] | None:
        try:
            return [int(number) for number in np.flatnonzero(np.bincount(read_mask(mask).ravel(), minlength=256))]
        except ImageError:  # decoding reports it, with its row
            return None

    return index.remembered(f"mask {VERSION} {index.digest_of(mask)}", read)


def _listed(numbers: set[int], most: int = 6) -> str:
    first = sorted(numbers)[:most]
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return (
        ", ".join(map(str, first)) + more
        if more or len(first) < 2
        else f"{', '.join(map(str, first[:-1]))} and {first[-1]}"
    )
