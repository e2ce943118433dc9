"""What is no fault of a manifest, but may spoil a run: the warnings of `data check`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedcore.data.duplicates import equal_images
from fedcore.data.manifest.cells import rows_told
from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_notes import names_of, split_notes
from fedcore.data.preprocess.decode import UNLABELED
from fedcore.data.tools.look import Look
from fedcore.data.tools.site_tables import Sites

_SCALES_APART = 100


def cautions(sites: Sites) -> list[str]:
    """A line each."""
    pairs = sorted((pair for pairs in sites.values() for pair in pairs), key=lambda pair: pair[0].number)
    rows = [row for row, _ in pairs]
    seen = [(row, look) for row, look in pairs if look.shape]
    return [
        *_constant(seen), *_of_sites(sites), *split_notes(rows),
        *equal_images(rows, [look.digest for _, look in pairs]), *_mixed([look for _, look in seen]), *_geometry(sites),
        *_slices_of_series(seen), *_orders_of_slices(seen), *_structures(seen),
        *_scales(sites),
    ]  # fmt: skip


def _constant(seen: list[tuple[Row, Look]]) -> Iterator[str]:
    for row, look in seen:
        if look.constant:
            yield f"row {row.number}, {row.image.name}: constant image"


def _of_sites(sites: Sites) -> Iterator[str]:
    known = {name for pairs in sites.values() for row, _ in pairs for name in names_of(row)}
    for site, pairs in sites.items():
        training = sum(row.split == "train" for row, _ in pairs)
        if training == 1:
            yield f"site '{site}' has one image for training; it is left out where batch norm needs two"
        if missing := known - {name for row, _ in pairs for name in names_of(row)}:
            yield f"site '{site}' has no image of {', '.join(sorted(missing))}"
        if training == 0:
            yield f"site '{site}' has no image for training"


def _mixed(looks: list[Look]) -> Iterator[str]:
    if len({len(look.shape) for look in looks}) > 1:
        yield "2D and 3D images in one manifest; a run takes one of them"
    if len(channels := {look.channels for look in looks}) > 1:
        yield f"images of {' and '.join(map(str, sorted(channels)))} channels; grey is repeated to colour"
    modalities = Counter(look.header.modality for look in looks if look.header.modality)
    if len(modalities) > 1:
        told = ", ".join(f"{name} {count}" for name, count in sorted(modalities.items()))
        yield f"images of several modalities ({told}); their intensities mean other things"


def _geometry(sites: Sites) -> Iterator[str]:
    """Volumes that do not say how they lie, or how large their voxels are."""
    for site, pairs in sites.items():
        volumes = [look for _, look in pairs if len(look.shape) == 3]
        spaced = sum(look.header.spacing is not None for look in volumes)
        if spaced < len(volumes):
            yield (
                f"site '{site}': {len(volumes) - spaced} of {len(volumes)} volumes do not say how far apart their "
                "voxels are; these are taken for cubes"
            )
        if lost := sum(look.header.orientation is None for look in volumes):
            yield (
                f"site '{site}': {lost} of {len(volumes)} volumes do not say how they lie; they stay as stored, "
                "others are turned to right, front, head; see in data preview whether they lie alike"
            )


def _slices_of_series(seen: list[tuple[Row, Look]]) -> Iterator[str]:
    """Rows that are slices of one DICOM series, of which the folder would make a volume."""
    series = Counter(look.header.series for _, look in seen if look.header.series and len(look.shape) == 2)
    several = {name: count for name, count in series.items() if count > 1}
    if several:
        yield (
            f"{sum(several.values())} rows are slices of {len(several)} DICOM series; a row that names the folder "
            "of a series makes a volume"
        )


def _orders_of_slices(seen: list[tuple[Row, Look]]) -> Iterator[str]:
    """Masks that do not say how they lie, of series whose instance numbers run the other way than places do."""
    rows = [row.number for row, look in seen if look.header.numbers_reversed and _npy(row.mask)]
    if rows:
        yield (
            f"{rows_told(rows)}: slices of these DICOM series are numbered from the end of their positions, and their "
            "masks are .npy, which must run as positions do (axial ones from feet to head); see in data preview "
            "whether they fit"
        )


def _npy(mask: Path | None) -> bool:
    return mask is not None and mask.suffix.lower() == ".npy"


def _structures(seen: list[tuple[Row, Look]]) -> Iterator[str]:
    """Structures that only masks of test or validation images have."""
    splits: dict[int, set[str]] = defaultdict(set)
    for row, look in seen:
        for number in look.structures - {0, UNLABELED}:
            splits[number].add(row.split)
    if unseen := [str(number) for number, found in sorted(splits.items()) if "train" not in found]:
        yield f"no mask of a training image has structure {', '.join(unseen)}, and others have; nobody can learn it"


def _scales(sites: Sites) -> list[str]:
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
