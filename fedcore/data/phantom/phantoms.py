"""Simulated hospitals (phantoms): procedural shapes and materials, equal at all sites, and a scanner for each site.

The three parts follow Fed-Sim (Li et al. 2020, arXiv 2009.00668); here all are procedural, none is learned.

The shift of scanners lowers accuracy. Balanced accuracy of a CNN (4 convolutions with batch norm, 400 AdamW steps of
32 flipped images) trained on the row's hospital, tested on the column's; 64 x 64, 300 training and 100 test images per
hospital, one run each, 2 CPU cores, 2026-11:

    seed 0 (scanners tuned on it)      1     2     3     4
    1 sharp                         0.93  0.43  0.25  0.21
    2 blurred                       0.59  0.81  0.60  0.26
    3 noisy                         0.83  0.62  0.90  0.21
    4 inverted                      0.20  0.28  0.24  0.93

Mean of the own hospital 0.89, of the others 0.39; with seed 1, on which nothing was tuned, 0.90 and 0.40.
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

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.phantom.anatomy import FINDINGS, make_images
from fedcore.data.phantom.scanner import scanner_of
from fedcore.data.preprocess.decode import Decoding, Layout, resize_or_slice
from fedcore.data.preprocess.geometry import full_size, require_memory
from fedcore.data.preprocess.scaling import Percentiles
from fedcore.data.preprocess.slices import empty_slice_warnings
from fedcore.errors import InputErrors
from fedcore.files.writing import write_atomically

FIELD_OF_VIEW_MM = 256.0
_IMAGES_PER_PATIENT = 2
_CHUNK = 16 * _IMAGES_PER_PATIENT  # images made at once: keeps 3D within memory and 2D within the CPU cache
_MIN_SIZE = 16  # pixels per axis; findings are too small below
_LABEL_SKEW = 0.6


@dataclass(frozen=True)
class Scans:
    """The images of one simulated hospital, in the raw units of its scanner."""

    site: str
    raw: Float[Tensor, "n *space"]
    masks: UInt8[Tensor, "n *space"]
    """0 air, 1 body, 2 finding."""
    labels: Int64[Tensor, " n"]
    """Index into FINDINGS; a patient has one finding, which is in all of its images."""
    patients: Int64[Tensor, " n"]
    """Numbers from 0; no two hospitals share one."""
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Phantoms:
    """Simulated hospitals: anatomy and findings are equal everywhere, scanners and class priors differ."""

    sites: int = 4
    """Number of hospitals; the first four have very different scanners, the others random ones."""
    images_per_site: int = 400
    """Images per hospital, two per patient."""
    spatial_dims: int = 2
    """2 for slices, 3 for volumes."""
    seed: int = 0
    """Seed of all images; they depend on this and the size alone."""
    test_fraction: float = 0.25
    """Fraction of each hospital's patients in the test split; both splits have at least one patient."""

    def __post_init__(self) -> None:
        rules = {
            f"sites must be at least 1, got {self.sites}": self.sites >= 1,
            f"images_per_site must be at least 1, got {self.images_per_site}": self.images_per_site >= 1,
            f"spatial_dims must be 2 or 3, got {self.spatial_dims}": self.spatial_dims in (2, 3),
            f"seed must not be negative, got {self.seed}": self.seed >= 0,
            f"test_fraction must lie in [0, 1), got {self.test_fraction}": 0 <= self.test_fraction < 1,
        }
        if errors := [text for text, holds in rules.items() if not holds]:
            raise InputErrors("data.phantom", errors)

    def scans(self, size: int | Sequence[int] = 64) -> Iterator[Scans]:
        """The raw images of one hospital after the other; memory is that of one hospital."""
        space = full_size(size, self.spatial_dims)
        if min(space) < _MIN_SIZE:
            raise InputErrors("data.phantom", [f"size must be at least {_MIN_SIZE} per axis, got {space}"])
        require_memory(space, self.images_per_site)
        for site in range(self.sites):
            yield self._scan(site, space)

    def cohort(self, size: int | Sequence[int] = 64, slices: int | None = None) -> Cohort:
        """All hospitals in memory, each image scaled to [-1, 1]; row numbers are those of `write`.

        With `slices` volumes are cut along that axis into slices of `size`; their number is that of the pixels of the
        longer side, so that voxels are cubes.
        """
        dims = self.spatial_dims if slices is None else self.spatial_dims - 1
        how = Decoding(Percentiles(), full_size(size, dims), channels=1, slices=slices)
        in_ras = how.size[::-1]  # the size of a slice along RAS axes, as `write` stores volumes
        space = how.size if slices is None else (*in_ras[:slices], max(in_ras), *in_ras[slices:])
        sites, row, warnings = {}, 2, []
        for scans in self.scans(space):
            sites[scans.site], empty = _images(scans, how, first_row=row)
            warnings += empty_slice_warnings(scans.site, empty)
            row += len(scans.raw)
        return Cohort(sites=sites, classes=FINDINGS, warnings=tuple(warnings))

    def write(self, folder: Path, size: int | Sequence[int] = 64) -> Path:
        """Write raw images, masks and `manifest.csv` to `folder` and return the manifest's path.

        2D: 16-bit PNG, intensities rounded and clipped to 65535. 3D: NIfTI with float32 intensities. The
        scanners' gains differ up to a thousandfold.
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
        labels = torch.from_numpy(_assign_findings(count, rng))[patient]
        held_out = round(self.test_fraction * count)
        if self.test_fraction > 0:
            held_out = min(max(held_out, 1), count - 1)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        scanner = scanner_of(site, self.seed)
        raw, masks = [], []
        for i in range(0, self.images_per_site, _CHUNK):
            clean, mask = make_images(labels[i : i + _CHUNK], patient[i : i + _CHUNK], space, generator)
            raw.append(scanner(clean, generator))
            masks.append(mask)
        return Scans(
            site=f"hospital_{site + 1}",
            raw=torch.cat(raw),
            masks=torch.cat(masks),
            labels=labels,
            patients=patient + site * count,
            splits=tuple("test" if p >= count - held_out else "train" for p in patient.tolist()),
        )


def _assign_findings(patients: int, rng: np.random.Generator) -> np.ndarray:
    """A finding for each patient, shuffled; their counts are as close as possible to the priors of this hospital."""
    priors = np.exp(_LABEL_SKEW * rng.standard_normal(len(FINDINGS)))
    levels = (np.arange(patients) + 0.5) / patients
    return rng.permutation(np.searchsorted(np.cumsum(priors / priors.sum())[:-1], levels))


def _images(scans: Scans, how: Decoding, first_row: int) -> tuple[Images, int]:
    """The images, and the number of empty slices that were left out."""
    found = [
        resize_or_slice(how.scaling(raw), mask, how, Layout(ras=True))
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
    encode, suffix = (_png, "png") if scans.raw.ndim == 3 else (_nifti, "nii.gz")
    for i, (split, label, patient) in enumerate(zip(scans.splits, scans.labels, scans.patients, strict=True)):
        image = f"{scans.site}/{i:05d}.{suffix}"
        mask = f"{scans.site}/{i:05d}_mask.{suffix}"
        write_atomically(folder / image, encode(scans.raw[i].numpy()))
        write_atomically(folder / mask, encode(scans.masks[i].numpy()))
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
