"""Slices of DICOM, frames of one file or files of one series, put in order: a volume, or a reason why they are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from fedcore.data.io.error import ImageError
from fedcore.data.io.grid import Grid

_TURNED, _APART = 0.01, 0.1
"""How far directions of slices may differ (sine), and a slice may lie from its even place (part of their distance)."""


@dataclass(frozen=True)
class Plane:
    """What a header says of one slice, in DICOM's axes: to the left, the back and the head."""

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
    """Distance between slices as a header has it, or how thick they are."""
    traits: Mapping[str, str] = field(default_factory=dict)
    """What may tell apart images of one place: echo, phase and so on."""

    @property
    def located(self) -> bool:
        return self.position is not None and self.directions is not None


@dataclass(frozen=True)
class Stack:
    """Planes as one volume, or one slice."""

    order: tuple[int, ...]
    """Places of the planes from first to last."""
    grid: Grid
    """Of (slice, row, column), in that order."""
    falling: bool = False
    """Instance numbers fall where places rise."""


def stacked(planes: Sequence[Plane]) -> Stack:
    """The planes along their normal or, where none says where it lies, by number.

    Raises:
        ImageError: They are no volume of slices that are evenly apart and lie right above one another.
    """
    if len(shapes := Counter(plane.shape for plane in planes)) > 1:
        found = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in shapes.most_common())
        raise ImageError(f"slices of unequal shape in one series: {found}; take out what does not belong to it")
    here = [plane.located for plane in planes]
    if any(here) and not all(here):
        raise ImageError(
            f"{len(here) - sum(here)} of {len(here)} slices do not say where they lie; take out what is no slice"
        )
    if not here[0]:
        return _by_number(planes)
    _require_one_direction(planes)
    along = planes[0].directions
    assert along is not None, "located"
    corners = np.array([plane.position for plane in planes], dtype=float)
    places = corners @ np.cross(*along)
    order = np.argsort(places, kind="stable")
    step = _step(places[order], corners[order], [planes[at] for at in order])
    if step is not None and _off(corners[order], step) > _APART * np.linalg.norm(step):
        raise ImageError(
            "slices do not lie along one line; resample the volume onto a grid, for instance with dcm2niix"
        )
    numbers = [planes[at].number for at in order]
    falling = len(numbers) > 1 and all(n is not None for n in numbers) and _falls([n or 0.0 for n in numbers])
    return Stack(tuple(order.tolist()), _grid([planes[at] for at in order], corners[order][0], along, step), falling)


def _grid(planes: Sequence[Plane], corner: np.ndarray, along: np.ndarray, step: np.ndarray | None) -> Grid:
    space = (len(planes), *planes[0].shape)
    sizes = {plane.mm for plane in planes}
    if None in sizes:
        return Grid(space)
    sides = np.array(sorted(size for size in sizes if size is not None))
    if np.ptp(sides, axis=0).max() > 0.01 * sides.min():
        raise ImageError("slices of several pixel spacings in one volume; a folder holds one series of one spacing")
    rows, columns = planes[0].mm or (1.0, 1.0)
    if step is None:  # one slice, whose thickness matters to nobody
        step = np.cross(*along) * (planes[0].thickness or 1.0)
    affine = np.eye(4)
    affine[:3] = np.stack([step, along[1] * rows, along[0] * columns, corner], axis=1)
    return Grid(space, np.diag([-1.0, -1, 1, 1]) @ affine)  # to right, front and head


def _by_number(planes: Sequence[Plane]) -> Stack:
    numbers = [plane.number for plane in planes]
    known = [number for number in numbers if number is not None]
    if len(planes) > 1 and len(known) < len(planes):
        raise ImageError("slices without position and instance number; nothing puts them in an order")
    if len(set(known)) < len(known):
        raise ImageError("slices that share an instance number, and none says where it lies; a folder holds one volume")
    order = np.argsort(known) if len(planes) > 1 else np.zeros(1, int)
    first = planes[order[0]]
    apart = () if first.mm is None else first.mm
    mm = (first.thickness or (np.nan if len(planes) > 1 else 1.0), *apart) if apart else None
    return Stack(tuple(order.tolist()), Grid((len(planes), *first.shape), mm=mm))


def _require_one_direction(planes: Sequence[Plane]) -> None:
    kinds: list[np.ndarray] = []
    counts: Counter[int] = Counter()
    for plane in planes:
        assert plane.directions is not None, "located"
        at = next((at for at, one in enumerate(kinds) if np.abs(one - plane.directions).max() <= _TURNED), len(kinds))
        if at == len(kinds):
            kinds.append(plane.directions)
        counts[at] += 1
    if len(kinds) > 1:
        raise ImageError(
            f"slices of {len(kinds)} orientations ({_counts(counts)}); take out localizers and reformatted images, or "
            "give each orientation a folder"
        )


def _step(places: np.ndarray, corners: np.ndarray, planes: Sequence[Plane]) -> np.ndarray | None:
    """From each slice to the next, (3,); None of one slice."""
    if len(places) == 1:
        return None
    apart = np.diff(places)
    usual = float(np.median(apart))
    if (double := apart <= max(1e-3, 0.01 * usual)).any():
        raise ImageError(_doubled(places, planes, double))
    even = (places[-1] - places[0]) / (len(places) - 1)
    if np.abs(places - places[0] - even * np.arange(len(places))).max() > _APART * min(even, usual):
        raise ImageError(_uneven(apart, usual))
    return np.asarray((corners[-1] - corners[0]) / (len(corners) - 1))


def _doubled(places: np.ndarray, planes: Sequence[Plane], double: np.ndarray) -> str:
    same = np.concatenate([[0], np.cumsum(~double)])
    differing = sorted(
        name for name in planes[0].traits
        if any(len({p.traits.get(name) for p, s in zip(planes, same, strict=True) if s == place}) > 1
               for place in set(same[1:][double].tolist()))
    )  # fmt: skip
    advice = (
        f"they differ in {', '.join(differing)}: give each a folder or file of its own" if differing
        else "take out what is double"
    )  # fmt: skip
    return f"{len(places)} slices at {same[-1] + 1} places share a place; {advice}"


def _uneven(apart: np.ndarray, usual: float) -> str:
    wide = np.flatnonzero(apart > 1.5 * usual)
    if len(wide) and np.abs(np.delete(apart, wide) - usual).max(initial=0) <= 2 * _APART * usual:
        gaps = ", ".join(f"{apart[at]:.4g} mm between slices {at + 1} and {at + 2}" for at in wide[:3])
        return f"slices are missing: {gaps}, {usual:.4g} mm elsewhere; export the whole series again"
    return (
        f"slices are unevenly apart, {apart.min():.4g} to {apart.max():.4g} mm; resample the volume onto an even grid, "
        "for instance with SimpleITK"
    )


def _off(corners: np.ndarray, step: np.ndarray) -> float:
    even = corners[0] + step * np.arange(len(corners))[:, None]
    return float(np.linalg.norm(corners - even, axis=1).max())


def _falls(numbers: Sequence[float]) -> bool:
    return all(later < former for former, later in pairwise(numbers))


def _counts(counts: Counter[int]) -> str:
    return " and ".join(str(count) for _, count in counts.most_common())
