"""The decoded images of one site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64, UInt8
from torch import Tensor

from fedcore.data.mask_classes import UNLABELED
from fedcore.errors import Refused

Indices = Tensor | np.ndarray | Sequence[int]
Target = Literal["labels", "findings", "masks", "positions"]
"""What a batch may contain in addition to its pixels; several come in the given order."""


@dataclass(frozen=True)
class Images:
    """One site's decoded images.

    `pixels` and `masks` may be memory-mapped files and are never copied: a subset keeps them whole, together with
    `index`, the places of its images in them. All other fields hold the subset alone; read pixels with `batch`.
    """

    site: str
    pixels: np.ndarray
    """(stored, c, *space) float16 in [-1, 1]."""
    splits: np.ndarray
    """(n,), each train, val or test."""
    labels: Int64[Tensor, " n"]
    """Class index, -1 for unlabelled images."""
    patients: np.ndarray
    """(n,) int64, anonymous numbers; images of one patient have the same."""
    masks: np.ndarray | None = None
    """(stored, *space) uint8 class numbers, `UNLABELED` (255) where not annotated."""
    masks_used: np.ndarray | None = None
    """(n,) bool, whether the mask may be used; the other masks read as unlabelled. None: all are used."""
    rows: np.ndarray | None = None
    """(n,) int64 rows of the manifest; None without a manifest."""
    index: np.ndarray | None = None
    """(n,) places in `pixels`; None: all of them, in order."""
    positions: np.ndarray | None = None
    """(n,) float32 in [0, 1], position of a slice in its volume, first to last; None unless all are known."""
    spacing: np.ndarray | None = None
    """(n, d) float32, mm between pixels, NaN where a file lacks it; None where all files lack it."""
    added: AddedImages | None = None
    """Images mixed into every training batch; they are not counted as images of the site."""
    findings: UInt8[Tensor, "n k"] | None = None
    """1 where an image has a finding; `labels` then number sets of findings (`fedcore.data.findings`)."""
    all_labels: Int64[Tensor, " n"] | None = None
    """Where `labels` has those of some patients only (`label_fraction`): those of all, to measure with and not to train
    with. None: `labels` are all."""

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
        if self.all_labels is not None:
            counts["all_labels"] = len(self.all_labels)
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
    def without_spacing(self) -> int:
        """Number of images whose pixel size in mm is unknown."""
        return len(self) if self.spacing is None else int(np.isnan(self.spacing).any(1).sum())

    def select(self, split: str) -> Images:
        """The images of one split, possibly none."""
        return self.take(np.flatnonzero(self.splits == split))

    def take(self, indices: Indices) -> Images:
        """A subset, in the order of `indices`; no pixels are read."""
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
            all_labels=None if self.all_labels is None else self.all_labels[torch.from_numpy(at)],
            index=self._stored(at),
        )

    def with_all_labels(self) -> Images:
        """The same images with `all_labels`."""
        return self if self.all_labels is None else replace(self, labels=self.all_labels, all_labels=None)

    def batch(self, indices: Indices, device: torch.device | None = None) -> Float32[Tensor, "b c *space"]:
        """Pixels in [-1, 1]; with a `device`, float16 is copied there and becomes float32 there (half the transfer)."""
        return self.half_batch(indices).to(device).float()

    def half_batch(self, indices: Indices) -> Float16[Tensor, "b c *space"]:
        """The pixels of `batch` as stored, in float16."""
        at = self._stored(np.asarray(indices, dtype=np.int64))
        return torch.from_numpy(np.asarray(self.pixels[at]))

    def mask_batch(self, indices: Indices) -> Int64[Tensor, "b *space"]:
        """Class numbers, `UNLABELED` (255) where not annotated.

        Raises:
            ValueError: The site has no masks.
        """
        if self.masks is None:
            raise ValueError(f"site '{self.site}' has no masks")
        at = np.asarray(indices, dtype=np.int64)
        masks = torch.from_numpy(np.asarray(self.masks[self._stored(at)])).long()
        if self.masks_used is not None:
            masks[torch.from_numpy(~self.masks_used[at])] = UNLABELED
        return masks

    def targets(self, what: Target, indices: Indices) -> Tensor:
        """The targets of the images of `batch(indices)`.

        Raises:
            Refused: The site has no masks or findings, or a position is unknown.
        """
        if what == "masks":
            if self.masks is None:
                raise Refused("the site has no masks; add a column 'mask' to the manifest")
            return self.mask_batch(indices)
        if what == "labels":
            return self.labels[torch.as_tensor(indices)]
        if what == "findings":
            if self.findings is None:
                raise Refused("labels were not split into findings")
            return self.findings[torch.as_tensor(indices)]
        if self.positions is None:
            raise Refused(
                "the position in the volume is not known for every image; cut volumes with data.slices, or give every "
                "row of the manifest a position; images of a synthetic set have none"
            )
        return torch.from_numpy(self.positions[np.asarray(indices, dtype=np.int64)])

    def _stored(self, at: np.ndarray) -> np.ndarray:
        return at if self.index is None else self.index[at]


@dataclass(frozen=True)
class AddedImages:
    """Images, such as those of a synthetic set, that are mixed into every training batch."""

    images: Images
    fraction: float
    """Their part of a batch, in (0, 1]; with 1 they replace the site's own images."""

    @property
    def replace_own(self) -> bool:
        """Whether batches contain no image of the site itself."""
        return self.fraction == 1

    def count_for(self, own: int) -> int:
        """How many are added to `own` images of the site."""
        return own if self.replace_own else round(own * self.fraction / (1 - self.fraction))
