"""Which numbers the masks of a manifest hold, and what 255 means among them: one answer for all of its masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fedcore.data.cache.cache import VERSION, default_folder, open_cache
from fedcore.data.cache.content import Memo
from fedcore.data.io.masks import Meaning, read_mask
from fedcore.data.io.readers import ImageError
from fedcore.data.manifest.manifest import Row
from fedcore.errors import InputErrors

Met = Mapping[str, Counter[tuple[int, ...]]]
"""By site how many masks hold exactly these numbers."""
_THREADS = 4
_SPARSE = 8


def met_in_masks(rows: Sequence[Row], folder: Path | None = None) -> Met:
    """Of all masks that can be read; those that were read before are remembered in `folder`, the cache."""
    place = folder or default_folder()
    masks = [row for row in rows if row.mask]
    found: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    if not masks:
        return found
    with open_cache(place):
        memo = Memo(place / "known.json")
        with ThreadPoolExecutor(_THREADS) as pool:
            for row, numbers in zip(masks, pool.map(lambda row: _numbers(row, memo), masks), strict=True):
                if numbers:
                    found[row.site][tuple(numbers)] += 1
        memo.save()
    return dict(found)


def meaning_of_255(met: Met) -> Meaning:
    """Class 1 where no mask holds a number other than 0 and 255, else that nobody has looked there.

    Raises:
        InputErrors: Nothing but 255 anywhere, or a site of 0 and 255 alone among others of further numbers.
    """
    of_sites = {site: set().union(*sets) for site, sets in met.items()}
    all_met = set().union(*of_sites.values())
    if 255 not in all_met:
        return "unlabelled"
    if all_met == {255}:
        faults = [f"site '{site}': its masks hold 255 everywhere" for site in of_sites]
    elif all_met == {0, 255}:
        return "class"
    else:
        others = _listed(all_met - {0, 255})
        faults = [
            f"site '{site}': its masks hold {_listed(numbers)} alone, and masks of other sites {others}"
            for site, numbers in of_sites.items()
            if 255 in numbers and numbers <= {0, 255}
        ]
    if faults:
        advice = (
            "Set data.mask_255 to class, where 255 is a structure (class 1), or to unlabelled, where nobody has looked."
        )
        raise InputErrors("masks", faults, advice)
    return "unlabelled"


def require_numbered(met: Met, mask_255: Meaning) -> list[str]:
    """Notes of class numbers that no mask holds, each of which costs a segmenter an output.

    Raises:
        InputErrors: Fewer than one in eight of the numbers up to the greatest is there, as in masks of 0 and 128.
    """
    stored = set().union(*(set().union(*sets) for sets in met.values()))
    classes = {1 if number == 255 else number for number in stored if number != 255 or mask_255 == "class"} - {0}
    missing = max(classes, default=0) - len(classes)
    if not missing:
        return []
    found = f"masks hold the class numbers {_listed(classes)}, and {missing} below {max(classes)} in none"
    if _SPARSE * len(classes) < max(classes) and max(classes) > _SPARSE:
        raise InputErrors("masks", [found], "Number the classes 1, 2, 3 and so on.")
    return [f"{found}; a segmenter has an output for each"]


def mask_notes(met: Met, mask_255: Meaning) -> list[str]:
    """What 255 was taken for, where that is not plain: by site, counts of masks alone."""
    whole = {site: sets[255,] for site, sets in met.items() if sets[255,]}
    if mask_255 == "class":
        return [
            f"site '{site}': {count} mask{'s' * (count > 1)} of 255 everywhere, taken for class 1"
            for site, count in whole.items()
        ]
    some = sum(count for sets in met.values() for numbers, count in sets.items() if 255 in numbers)
    return [f"255 in masks stands for pixels that nobody has looked at ({some} masks)"] if some else []


def checked_masks(met: Met) -> tuple[list[str], list[str]]:
    """(faults, warnings) of the numbers of a manifest's masks, for `data check`."""
    try:
        meaning, warnings = meaning_of_255(met), []
    except InputErrors as faults:
        meaning = "unlabelled"
        warnings = [f"{fault}; a run needs data.mask_255 class or unlabelled" for fault in faults.faults]
    try:
        return [], [*warnings, *require_numbered(met, meaning), *mask_notes(met, meaning)]
    except InputErrors as faults:
        return list(faults.faults), warnings


def _numbers(row: Row, memo: Memo) -> list[int] | None:
    assert row.mask, "only rows with a mask are asked for"
    mask = row.mask

    def look() -> list[int] | None:
        try:
            return [int(number) for number in np.flatnonzero(np.bincount(read_mask(mask).ravel(), minlength=256))]
        except ImageError:  # decoding tells, with its row
            return None

    return memo.recall(f"mask {VERSION} {memo.digest_of(mask)}", look)


def _listed(numbers: set[int], most: int = 6) -> str:
    first = sorted(numbers)[:most]
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return (
        ", ".join(map(str, first)) + more
        if more or len(first) < 2
        else f"{', '.join(map(str, first[:-1]))} and {first[-1]}"
    )
