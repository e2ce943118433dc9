"""The warnings of `data check`: what is not an error, but may spoil a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedcore.data.duplicates import duplicate_warnings
from fedcore.data.manifest.cells import format_rows
from fedcore.data.manifest.row import Row
from fedcore.data.manifest.split_warnings import classes_of, split_warnings
from fedcore.data.mask_classes import UNLABELED
from fedcore.data.tools.check_image import Checked, ImageCheck

_MAX_RATIO = 100
"""Of the intensity ranges of two sites."""
_Pairs = list[tuple[Row, ImageCheck]]


def manifest_warnings(sites: Checked) -> list[str]:
    """One line each."""
    pairs = sorted((pair for pairs in sites.values() for pair in pairs), key=lambda pair: pair[0].number)
    rows = [row for row, _ in pairs]
    readable = [(row, check) for row, check in pairs if check.shape]
    return [
        *_constant(readable), *_of_sites(sites), *split_warnings(rows),
        *duplicate_warnings(rows, [check.digest for _, check in pairs]), *_mixed([check for _, check in readable]),
        *_geometry(sites), *_slices_of_series(readable), *_mask_orders(readable), *_structures(readable),
        *_scales(sites),
    ]  # fmt: skip


def _constant(readable: _Pairs) -> Iterator[str]:
    for row, check in readable:
        if check.constant:
            yield f"row {row.number}, {row.image.name}: constant image"


def _of_sites(sites: Checked) -> Iterator[str]:
    known = {name for pairs in sites.values() for row, _ in pairs for name in classes_of(row)}
    for site, pairs in sites.items():
        training = sum(row.split == "train" for row, _ in pairs)
        if training == 1:
            yield f"site '{site}' has 1 training image; batch norm needs 2, so the site may be skipped"
        if missing := known - {name for row, _ in pairs for name in classes_of(row)}:
            yield f"site '{site}' has no image of {', '.join(sorted(missing))}"
        if training == 0:
            yield f"site '{site}' has no training image"


def _mixed(checks: list[ImageCheck]) -> Iterator[str]:
    if len({len(check.shape) for check in checks}) > 1:
        yield "2D and 3D images in one manifest; a run accepts only one of them"
    if len(channels := {check.channels for check in checks}) > 1:
        yield f"images of {' and '.join(map(str, sorted(channels)))} channels; greyscale becomes RGB"
    modalities = Counter(check.header.modality for check in checks if check.header.modality)
    if len(modalities) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(modalities.items()))
        yield f"images of several modalities ({counts}); their intensities have different meanings"


def _geometry(sites: Checked) -> Iterator[str]:
    """Volumes without orientation or voxel spacing."""
    for site, pairs in sites.items():
        volumes = [check for _, check in pairs if len(check.shape) == 3]
        with_spacing = sum(check.header.spacing is not None for check in volumes)
        if with_spacing < len(volumes):
            yield (
                f"site '{site}': {len(volumes) - with_spacing} of {len(volumes)} volumes have no voxel spacing; their "
                "voxels are treated as cubes"
            )
        if unknown := sum(check.header.orientation is None for check in volumes):
            yield (
                f"site '{site}': {unknown} of {len(volumes)} volumes have no orientation and stay as stored, the "
                "others are reoriented to RAS; compare their orientation with data preview"
            )


def _slices_of_series(readable: _Pairs) -> Iterator[str]:
    """Rows that are slices of one DICOM series, whose folder would be a volume."""
    series = Counter(check.header.series for _, check in readable if check.header.series and len(check.shape) == 2)
    several = {name: count for name, count in series.items() if count > 1}
    if several:
        yield (
            f"{sum(several.values())} rows are slices of {len(several)} DICOM series; use the folder of a series as "
            "image to read it as a volume"
        )


def _mask_orders(readable: _Pairs) -> Iterator[str]:
    """Masks without orientation, of series whose instance numbers run against positions."""
    rows = [row.number for row, check in readable if check.header.numbers_reversed and _is_npy(row.mask)]
    if rows:
        yield (
            f"{format_rows(rows)}: instance numbers of these DICOM series run against slice positions, and .npy masks "
            "must be in the order of positions (axial slices from feet to head); check with data preview that they fit"
        )


def _is_npy(mask: Path | None) -> bool:
    return mask is not None and mask.suffix.lower() == ".npy"


def _structures(readable: _Pairs) -> Iterator[str]:
    """Structures that only masks of test or validation images contain."""
    splits: dict[int, set[str]] = defaultdict(set)
    for row, check in readable:
        for number in check.structures - {0, UNLABELED}:
            splits[number].add(row.split)
    if untrained := [str(number) for number, found in sorted(splits.items()) if "train" not in found]:
        yield f"structure {', '.join(untrained)} occurs in no mask of a training image and cannot be learned"


def _scales(sites: Checked) -> list[str]:
    """Intensity ranges of sites that are so different that images must be scaled one by one."""
    ranges = {}
    for site, pairs in sites.items():
        if of_images := [check.high - check.low for _, check in pairs if check.high > check.low]:
            ranges[site] = float(np.median(of_images))
    if not ranges:
        return []
    least, most = min(ranges, key=ranges.__getitem__), max(ranges, key=ranges.__getitem__)
    ratio = ranges[most] / ranges[least]
    if ratio <= _MAX_RATIO:
        return []
    return [
        f"the intensity range of '{most}' is {ratio:.0f} times that of '{least}'; keep the scaling by percentiles "
        "(the default), since a fixed window would make one of them constant"
    ]
