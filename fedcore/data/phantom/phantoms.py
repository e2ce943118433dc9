"""Phantom hospitals: a procedural data set of shapes x materials, which all sites share, x a sensor per site.

The split follows Fed-Sim (Li et al. 2020, arXiv 2009.00668); here all three are procedural, none is learned.

A scanner's shift hurts. Balanced accuracy of a CNN (4 convolutions with batch norm, 400 AdamW steps of 32
flipped images) trained on the row's hospital, tested on the column's; 64 x 64, 300 training and 100 test
images a hospital, one run each, 2 CPU cores, 2026-11:

    seed 0 (sensors tuned on it)      1     2     3     4
    1 sharp                         0.93  0.43  0.25  0.21
    2 blurred                       0.59  0.81  0.60  0.26
    3 noisy                         0.83  0.62  0.90  0.21
    4 inverted                      0.20  0.28  0.24  0.93

At home 0.89 and away 0.39 on average; 0.90 and 0.40 with seed 1, which nothing was tuned on.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from fedcore.data.dataset import Cohort, Images
from fedcore.data.phantom.anatomy import FINDINGS, draw
from fedcore.data.phantom.sensor import sensor_of
from fedcore.data.preprocess.decode import Decoding, Layout, arrange
from fedcore.data.preprocess.geometry import full_size, require_memory
from fedcore.data.preprocess.scaling import Percentiles
from fedcore.data.preprocess.slices import emptied
from fedcore.errors import InputErrors
from fedcore.files.writing import write_atomically

FIELD_OF_VIEW_MM = 256.0
_IMAGES_PER_PATIENT = 2
_CHUNK = 16 * _IMAGES_PER_PATIENT  # images drawn at once: keeps 3D within memory and 2D within the cache
_SMALLEST = 16  # pixels an axis; findings are too small below
_LABEL_SKEW = 0.6


@dataclass(frozen=True)
class Scans:
    """What one phantom hospital holds, in the raw units of its sensor."""

    site: str
    raw: Float[Tensor, "n *space"]
    masks: UInt8[Tensor, "n *space"]
    """0 air, 1 body, 2 finding."""
    labels: Int64[Tensor, " n"]
    """Index into FINDINGS; all images of a patient show the patient's one finding."""
    patients: Int64[Tensor, " n"]
    """Numbers from 0; no two hospitals share one."""
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Phantoms:
    """The built-in hospitals: anatomy and findings alike everywhere, scanners and class priors not."""

    sites: int = 4
    """Number of hospitals; the first four have sensors chosen to differ strongly, the others drawn ones."""
    images_per_site: int = 400
    """Images a hospital, two a patient."""
    spatial_dims: int = 2
    """2 for slices, 3 for volumes."""
    seed: int = 0
    """Everything is a function of this and the size."""
    test_fraction: float = 0.25
    """Fraction of each hospital's patients to test on; at least one patient stays on either side."""

    def __post_init__(self) -> None:
        rules = {
            f"sites must be at least 1, got {self.sites}": self.sites >= 1,
            f"images_per_site must be at least 1, got {self.images_per_site}": self.images_per_site >= 1,
            f"spatial_dims must be 2 or 3, got {self.spatial_dims}": self.spatial_dims in (2, 3),
            f"seed must not be negative, got {self.seed}": self.seed >= 0,
            f"test_fraction must lie in [0, 1), got {self.test_fraction}": 0 <= self.test_fraction < 1,
        }
        if faults := [text for text, holds in rules.items() if not holds]:
            raise InputErrors("phantom hospitals", faults)

    def scans(self, size: int | Sequence[int] = 64) -> Iterator[Scans]:
        """One hospital after the other, raw; memory is that of one hospital."""
        space = full_size(size, self.spatial_dims)
        if min(space) < _SMALLEST:
            raise InputErrors("phantom hospitals", [f"size must be at least {_SMALLEST} an axis, got {space}"])
        require_memory(space, self.images_per_site)
        for site in range(self.sites):
            yield self._scan(site, space)

    def cohort(self, size: int | Sequence[int] = 64, slices: int | None = None) -> Cohort:
        """All hospitals in memory, scaled to [-1, 1] image by image; row numbers are those of `write`.

        With `slices` volumes are cut along that axis into slices of `size`; as many as the longer side has
        pixels, so that voxels are cubes.
        """
        dims = self.spatial_dims if slices is None else self.spatial_dims - 1
        how = Decoding(Percentiles(), full_size(size, dims), channels=1, slices=slices)
        plane = how.size[::-1]  # of volumes in RAS, as `write` stores them
        space = how.size if slices is None else (*plane[:slices], max(plane), *plane[slices:])
        sites, row, notes = {}, 2, []
        for scans in self.scans(space):
            sites[scans.site], empty = _images(scans, how, first_row=row)
            notes += emptied(scans.site, empty)
            row += len(scans.raw)
        return Cohort(sites=sites, classes=FINDINGS, notes=tuple(notes), faults=())

    def write(self, folder: Path, size: int | Sequence[int] = 64) -> Path:
        """Write raw images, masks and `manifest.csv` to `folder` and return the manifest's path.

        2D: 16-bit PNG, intensities rounded and clipped to 65535. 3D: NIfTI with float32 intensities. The
        sensors' gains differ up to a thousandfold.
        """
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(("image", "site", "split", "label", "mask", "patient"))
        for scans in self.scans(size):
            table.writerows(_write_site(folder, scans))
        write_atomically(folder / "manifest.csv", text.getvalue().encode())
        return folder / "manifest.csv"

    def _scan(self, site: int, space: tuple[int, ...]) -> Scans:
        rng = np.random.default_rng([self.seed, site])
        patient = torch.arange(self.images_per_site) // _IMAGES_PER_PATIENT
        count = int(patient[-1]) + 1
        labels = torch.from_numpy(_deal(count, rng))[patient]
        held_out = round(self.test_fraction * count)
        if self.test_fraction > 0:
            held_out = min(max(held_out, 1), count - 1)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        sensor = sensor_of(site, self.seed)
        raw, masks = [], []
        for i in range(0, self.images_per_site, _CHUNK):
            clean, mask = draw(labels[i : i + _CHUNK], patient[i : i + _CHUNK], space, generator)
            raw.append(sensor(clean, generator))
            masks.append(mask)
        return Scans(
            site=f"hospital_{site + 1}",
            raw=torch.cat(raw),
            masks=torch.cat(masks),
            labels=labels,
            patients=patient + site * count,
            splits=tuple("test" if p >= count - held_out else "train" for p in patient.tolist()),
        )


def _deal(patients: int, rng: np.random.Generator) -> np.ndarray:
    """A finding for each patient, in numbers as close as can be to the priors of this hospital, shuffled."""
    priors = np.exp(_LABEL_SKEW * rng.standard_normal(len(FINDINGS)))
    levels = (np.arange(patients) + 0.5) / patients
    return rng.permutation(np.searchsorted(np.cumsum(priors / priors.sum())[:-1], levels))


def _images(scans: Scans, how: Decoding, first_row: int) -> tuple[Images, int]:
    """The images, and how many empty slices are left out."""
    found = [
        arrange(how.scaling(raw), mask, how, Layout(ras=True))
        for raw, mask in zip(scans.raw[:, None].numpy(), scans.masks.numpy(), strict=True)
    ]
    scan = np.repeat(np.arange(len(found)), [len(each.pixels) for each in found])
    positions = [each.positions for each in found if each.positions is not None]
    images = Images(
        site=scans.site,
        pixels=np.concatenate([each.pixels for each in found]),
        splits=np.array(scans.splits)[scan],
        labels=scans.labels[scan],
        patients=scans.patients.numpy()[scan],
        masks=np.concatenate([each.masks for each in found if each.masks is not None]),
        rows=first_row + scan,
        positions=np.concatenate(positions) if positions else None,
    )
    return images, sum(each.empty for each in found)


def _write_site(folder: Path, scans: Scans) -> Iterator[tuple[str, ...]]:
    """Write the files of one hospital and yield their rows of the manifest."""
    encoded, suffix = (_png, "png") if scans.raw.ndim == 3 else (_nifti, "nii.gz")
    for i, (split, label, patient) in enumerate(zip(scans.splits, scans.labels, scans.patients, strict=True)):
        image = f"{scans.site}/{i:05d}.{suffix}"
        mask = f"{scans.site}/{i:05d}_mask.{suffix}"
        write_atomically(folder / image, encoded(scans.raw[i].numpy()))
        write_atomically(folder / mask, encoded(scans.masks[i].numpy()))
        yield image, scans.site, split, FINDINGS[int(label)], mask, f"patient_{int(patient):06d}"


def _png(array: np.ndarray) -> bytes:
    from PIL import Image

    if array.dtype != np.uint8:
        array = array.round().clip(0, 2**16 - 1).astype(np.uint16)
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def _nifti(array: np.ndarray) -> bytes:
    import nibabel

    mm = FIELD_OF_VIEW_MM / max(array.shape)
    made = nibabel.Nifti1Image(array, np.diag([mm, mm, mm, 1.0]))
    return gzip.compress(made.to_bytes(), compresslevel=1, mtime=0)
