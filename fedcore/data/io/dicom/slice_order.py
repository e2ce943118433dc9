"""Sorts DICOM slices (frames of one file or files of one series) into a volume, or explains why they are not one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid

_MAX_ANGLE, _MAX_OFFSET = 0.01, 0.1
"""Largest difference of slice directions (sine), and of a slice from its even position (fraction of the distance)."""


@dataclass(frozen=True)
class SliceHeader:
    """The geometry of one slice, in DICOM's axes: to the left, the back and the head."""

    shape: tuple[int, int]
    """Rows, columns."""
    number: float | None = None
    position: np.ndarray | None = None
    """Of the first pixel, (3,), in mm."""
    directions: np.ndarray | None = None
    """Along a row and along a column, (2, 3)."""
    mm: tuple[float, float] | None = None
    """Between rows, between columns."""
    thickness: float | None = None
    """Distance between slices in the header, or slice thickness."""
    traits: Mapping[str, str] = field(default_factory=dict)
    """Attributes in which images at one position may differ: echo, phase and so on."""

    @property
    def has_position(self) -> bool:
        return self.position is not None and self.directions is not None


@dataclass(frozen=True)
class SortedSlices:
    """Slices in the order of a volume, or one slice."""

    order: tuple[int, ...]
    """Indices of the slices from first to last."""
    grid: Grid
    """Of (slice, row, column), in that order."""
    numbers_reversed: bool = False
    """Instance numbers fall while positions rise."""


def sort_slices(slices: Sequence[SliceHeader]) -> SortedSlices:
    """Sorts slices by position along their normal or, if none has a position, by instance number.

    Raises:
        ImageError: They are not a volume of parallel, aligned slices at equal distances.
    """
    if len(shapes := Counter(header.shape for header in slices)) > 1:
        found = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in shapes.most_common())
        raise ImageError(f"slices of unequal shape in one series: {found}; remove those of another image")
    located = [header.has_position for header in slices]
    if any(located) and not all(located):
        raise ImageError(
            f"{len(located) - sum(located)} of {len(located)} slices have no position; remove files that are not slices"
        )
    if not located[0]:
        return _by_number(slices)
    _require_one_direction(slices)
    directions = slices[0].directions
    assert directions is not None, "the slice has a position"
    corners = np.array([header.position for header in slices], dtype=float)
    positions = corners @ np.cross(*directions)
    order = np.argsort(positions, kind="stable")
    in_order = [slices[at] for at in order]
    step = _step(positions[order], corners[order], in_order)
    if step is not None and _max_distance(corners[order], step) > _MAX_OFFSET * np.linalg.norm(step):
        raise ImageError(
            "slices are not aligned along one line; resample the volume onto a grid, for instance with dcm2niix"
        )
    numbers = [header.number for header in in_order]
    falling = len(numbers) > 1 and all(n is not None for n in numbers) and _is_falling([n or 0.0 for n in numbers])
    return SortedSlices(tuple(order.tolist()), _grid(in_order, corners[order][0], directions, step), falling)


def _grid(slices: Sequence[SliceHeader], corner: np.ndarray, directions: np.ndarray, step: np.ndarray | None) -> Grid:
    shape = (len(slices), *slices[0].shape)
    spacings = {header.mm for header in slices}
    if None in spacings:
        return Grid(shape)
    sides = np.array(sorted(mm for mm in spacings if mm is not None))
    if np.ptp(sides, axis=0).max() > 0.01 * sides.min():
        raise ImageError("slices of several pixel spacings in one volume; a folder must contain one of them")
    rows, columns = slices[0].mm or (1.0, 1.0)
    if step is None:  # a single slice, whose thickness is not used
        step = np.cross(*directions) * (slices[0].thickness or 1.0)
    affine = np.eye(4)
    affine[:3] = np.stack([step, directions[1] * rows, directions[0] * columns, corner], axis=1)
    return Grid(shape, np.diag([-1.0, -1, 1, 1]) @ affine)  # to right, front and head


def _by_number(slices: Sequence[SliceHeader]) -> SortedSlices:
    numbers = [header.number for header in slices]
    known = [number for number in numbers if number is not None]
    if len(slices) > 1 and len(known) < len(slices):
        raise ImageError("slices without position and instance number, so that their order is unknown")
    if len(set(known)) < len(known):
        raise ImageError("slices without position and with equal instance numbers; a folder must contain one volume")
    order = np.argsort(known) if len(slices) > 1 else np.zeros(1, int)
    first = slices[order[0]]
    in_slice = () if first.mm is None else first.mm
    mm = (first.thickness or (np.nan if len(slices) > 1 else 1.0), *in_slice) if in_slice else None
    return SortedSlices(tuple(order.tolist()), Grid((len(slices), *first.shape), mm=mm))


def _require_one_direction(slices: Sequence[SliceHeader]) -> None:
    kinds: list[np.ndarray] = []
    counts: Counter[int] = Counter()
    for header in slices:
        own = header.directions
        assert own is not None, "the slice has a position"
        at = next((at for at, one in enumerate(kinds) if np.abs(one - own).max() <= _MAX_ANGLE), len(kinds))
        if at == len(kinds):
            kinds.append(own)
        counts[at] += 1
    if len(kinds) > 1:
        raise ImageError(
            f"slices of {len(kinds)} orientations ({_counts(counts)}); remove localizers and reformatted images, or "
            "put each orientation in a folder of its own"
        )


def _step(positions: np.ndarray, corners: np.ndarray, slices: Sequence[SliceHeader]) -> np.ndarray | None:
    """The vector from each slice to the next, (3,); None for a single slice."""
    if len(positions) == 1:
        return None
    distances = np.diff(positions)
    median = float(np.median(distances))
    if (equal := distances <= max(1e-3, 0.01 * median)).any():
        raise ImageError(_duplicates(positions, slices, equal))
    even = (positions[-1] - positions[0]) / (len(positions) - 1)
    offsets = np.abs(positions - positions[0] - even * np.arange(len(positions)))
    if offsets.max() > _MAX_OFFSET * min(even, median):
        raise ImageError(_uneven(distances, median))
    return np.asarray((corners[-1] - corners[0]) / (len(corners) - 1))


def _duplicates(positions: np.ndarray, slices: Sequence[SliceHeader], equal: np.ndarray) -> str:
    place_of = np.concatenate([[0], np.cumsum(~equal)])
    differing = sorted(
        name for name in slices[0].traits
        if any(len({s.traits.get(name) for s, p in zip(slices, place_of, strict=True) if p == place}) > 1
               for place in set(place_of[1:][equal].tolist()))
    )  # fmt: skip
    advice = (
        f"they differ in {', '.join(differing)}: put each in a folder or file of its own" if differing
        else "remove the duplicates"
    )  # fmt: skip
    return f"{len(positions)} slices at {place_of[-1] + 1} positions; {advice}"


def _uneven(distances: np.ndarray, median: float) -> str:
    wide = np.flatnonzero(distances > 1.5 * median)
    if len(wide) and np.abs(np.delete(distances, wide) - median).max(initial=0) <= 2 * _MAX_OFFSET * median:
        gaps = ", ".join(f"{distances[at]:.4g} mm between slices {at + 1} and {at + 2}" for at in wide[:3])
        return f"slices are missing: {gaps}, {median:.4g} mm elsewhere; export the whole series again"
    return (
        f"distances of slices differ, {distances.min():.4g} to {distances.max():.4g} mm; resample the volume onto an "
        "even grid, for instance with SimpleITK"
    )


def _max_distance(corners: np.ndarray, step: np.ndarray) -> float:
    """Of a slice from its place on an even line, in mm."""
    even = corners[0] + step * np.arange(len(corners))[:, None]
    return float(np.linalg.norm(corners - even, axis=1).max())


def _is_falling(numbers: Sequence[float]) -> bool:
    return all(later < former for former, later in pairwise(numbers))


def _counts(counts: Counter[int]) -> str:
    return " and ".join(str(count) for _, count in counts.most_common())
