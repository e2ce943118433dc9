"""What a site trains on: its decoded images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64, UInt8
from torch import Tensor

from fedcore.errors import InputError, Refused

Indices = Tensor | np.ndarray | Sequence[int]
Target = Literal["labels", "findings", "masks", "positions"]
"""What a batch may hold beside its pixels; of several, in their order."""


@dataclass(frozen=True)
class Images:
    """One site's decoded images.

    `pixels` and `masks` may be maps of files and are never copied: a part of the images holds `index`, the
    places of its images in them. All other fields are already of that part; read pixels with `batch`.
    """

    site: str
    pixels: np.ndarray
    """(stored, c, *space) float16 in [-1, 1]."""
    splits: np.ndarray
    """(n,) of train, val, test."""
    labels: Int64[Tensor, " n"]
    """Class index, or -1 where unlabelled."""
    patients: np.ndarray
    """(n,) int64, anonymous numbers: equal ones are one patient."""
    masks: np.ndarray | None = None
    """(stored, *space) uint8 class numbers, 255 where unlabelled."""
    masks_used: np.ndarray | None = None
    """(n,) bool, whose mask is given away; those of the others are read as unlabelled. None: of all."""
    rows: np.ndarray | None = None
    """(n,) int64 rows of the manifest; None where there is none."""
    index: np.ndarray | None = None
    """(n,) places in `pixels`; None: all, in order."""
    positions: np.ndarray | None = None
    """(n,) float32 in [0, 1], where in its volume a slice lies, first to last; None unless all are known."""
    spacing: np.ndarray | None = None
    """(n, d) float32, mm between pixels, NaN where a file does not say it; None where no file does."""
    companions: Companions | None = None
    """Join every batch of training; they are none of the site's images and not counted among them."""
    findings: UInt8[Tensor, "n k"] | None = None
    """1 where an image has a finding; then `labels` are numbers of sets of findings (`fedcore.data.findings`)."""

    def __post_init__(self) -> None:
        counts = {"splits": len(self.splits), "labels": len(self.labels), "patients": len(self.patients)}
        if self.rows is not None:
            counts["rows"] = len(self.rows)
        if self.masks_used is not None:
            counts["masks_used"] = len(self.masks_used)
        if self.positions is not None:
            counts["positions"] = len(self.positions)
        if self.spacing is not None:
            counts["spacing"] = len(self.spacing)
        if self.findings is not None:
            counts["findings"] = len(self.findings)
        if set(counts.values()) != {len(self)}:
            raise ValueError(f"site '{self.site}' has {len(self)} images, but {counts}")

    def __len__(self) -> int:
        return len(self.pixels) if self.index is None else len(self.index)

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def space(self) -> tuple[int, ...]:
        """Size of each spatial axis in pixels."""
        return tuple(int(n) for n in self.pixels.shape[2:])

    @property
    def unspaced(self) -> int:
        """Images of which nobody knows how large a pixel is."""
        return len(self) if self.spacing is None else int(np.isnan(self.spacing).any(1).sum())

    def select(self, split: str) -> Images:
        """The images of one split; may be empty."""
        return self.take(np.flatnonzero(self.splits == split))

    def take(self, indices: Indices) -> Images:
        """Some of the images, in the order asked; pixels are not read."""
        at = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            splits=self.splits[at],
            labels=self.labels[torch.from_numpy(at)],
            patients=self.patients[at],
            rows=None if self.rows is None else self.rows[at],
            masks_used=None if self.masks_used is None else self.masks_used[at],
            positions=None if self.positions is None else self.positions[at],
            spacing=None if self.spacing is None else self.spacing[at],
            findings=None if self.findings is None else self.findings[torch.from_numpy(at)],
            index=self._stored(at),
        )

    def batch(self, indices: Indices, device: torch.device | None = None) -> Float32[Tensor, "b c *space"]:
        """Pixels in [-1, 1], on a device if one is given: half the bytes travel there, and become float32 there."""
        return self.half_batch(indices).to(device).float()

    def half_batch(self, indices: Indices) -> Float16[Tensor, "b c *space"]:
        """The pixels of `batch` as they are stored."""
        at = self._stored(np.asarray(indices, dtype=np.int64))
        return torch.from_numpy(np.asarray(self.pixels[at]))

    def mask_batch(self, indices: Indices) -> Int64[Tensor, "b *space"]:
        """Class numbers, 255 where unlabelled.

        Raises:
            ValueError: the site has no masks.
        """
        if self.masks is None:
            raise ValueError(f"site '{self.site}' has no masks")
        at = np.asarray(indices, dtype=np.int64)
        masks = torch.from_numpy(np.asarray(self.masks[self._stored(at)])).long()
        if self.masks_used is not None:
            masks[torch.from_numpy(~self.masks_used[at])] = 255
        return masks

    def targets(self, what: Target, indices: Indices) -> Tensor:
        """What belongs to the pixels of `batch(indices)`.

        Raises:
            Refused: the site has no masks or findings, or does not know the positions.
        """
        if what == "masks":
            if self.masks is None:
                raise Refused("it has no masks; give the manifest a column 'mask'")
            return self.mask_batch(indices)
        if what == "labels":
            return self.labels[torch.as_tensor(indices)]
        if what == "findings":
            if self.findings is None:
                raise Refused("its labels were not taken apart into findings")
            return self.findings[torch.as_tensor(indices)]
        if self.positions is None:
            raise Refused(
                "not every image's position in its volume is known; cut volumes by data.slices, or give every row "
                "of the manifest a position; images of a synthetic set have none"
            )
        return torch.from_numpy(self.positions[np.asarray(indices, dtype=np.int64)])

    def _stored(self, at: np.ndarray) -> np.ndarray:
        return at if self.index is None else self.index[at]


@dataclass(frozen=True)
class Companions:
    """Images, such as those of a synthetic set, of which some join every batch."""

    images: Images
    share: float
    """Their part of a batch, in (0, 1]."""

    @property
    def alone(self) -> bool:
        """Whether they take the place of the images they come with."""
        return self.share == 1

    def joining(self, count: int) -> int:
        """How many come with `count` images."""
        return count if self.alone else round(count * self.share / (1 - self.share))


@dataclass(frozen=True)
class Cohort:
    """All sites' images; every one of the same channels and size."""

    sites: dict[str, Images]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    """Images left out, and why."""
    extra_sites: frozenset[str] = frozenset()
    """Sites that a further manifest added, such as a synthetic set."""

    @property
    def channels(self) -> int:
        return next(iter(self.sites.values())).channels

    @property
    def size(self) -> tuple[int, ...]:
        return next(iter(self.sites.values())).space

    @property
    def spatial_dims(self) -> int:
        return len(self.size)

    def split(self, name: str) -> dict[str, Images]:
        """One split of every site that has images in it."""
        parts = {site: images.select(name) for site, images in self.sites.items()}
        return {site: images for site, images in parts.items() if len(images)}


def joined(one: Cohort, other: Cohort) -> Cohort:
    """The sites of both, of which `other`'s are further ones.

    Classes are matched by name, and no patient of one is a patient of the other.

    Raises:
        InputError: Both have a site of the same name, or their images differ in channels or size.
    """
    if twice := sorted(one.sites.keys() & other.sites.keys()):
        raise InputError(f"two manifests have a site {twice[0]!r}; rename one of them")
    if (one.channels, one.size) != (other.channels, other.size):
        shapes = [f"{c.channels} x {' x '.join(map(str, c.size))}" for c in (one, other)]
        raise InputError(f"sites of one run need images of one shape, got {shapes[0]} and {shapes[1]}")
    classes = tuple(sorted({*one.classes, *other.classes}))
    first_free = 1 + max((int(images.patients.max(initial=0)) for images in one.sites.values()), default=0)
    sites = {name: _relabelled(images, one.classes, classes, 0) for name, images in one.sites.items()}
    sites |= {name: _relabelled(images, other.classes, classes, first_free) for name, images in other.sites.items()}
    extra_sites = frozenset({*one.extra_sites, *other.sites})
    return Cohort(sites, classes, one.notes + other.notes, one.faults + other.faults, extra_sites)


def relabelled(cohort: Cohort, names: Sequence[str]) -> Cohort:
    """The cohort with `names` for classes, which hold all of its own; labels are matched by name."""
    sites = {site: _relabelled(images, cohort.classes, names, 0) for site, images in cohort.sites.items()}
    return replace(cohort, classes=tuple(names), sites=sites)


def _relabelled(images: Images, before: Sequence[str], after: Sequence[str], first_patient: int) -> Images:
    places = torch.tensor([*(after.index(name) for name in before), -1])
    return replace(images, labels=places[images.labels], patients=images.patients + first_patient)
