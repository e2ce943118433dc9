"""The `data:` section of a recipe."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fedcore.data.build_cohort import build_cohort
from fedcore.data.cache.cache import Progress, decode_sites
from fedcore.data.cache.folder import default_folder
from fedcore.data.cohort import Cohort, join_cohorts
from fedcore.data.dimensions import dims_and_channels
from fedcore.data.extra_manifests import with_audit_status, with_class_warning
from fedcore.data.holdout import held_out_patients
from fedcore.data.io.readers import Nan
from fedcore.data.manifest.columns import DEFAULT_COLUMNS, Columns
from fedcore.data.manifest.label_names import require_distinct
from fedcore.data.manifest.manifest import Manifest, read_manifest
from fedcore.data.manifest.row import Row
from fedcore.data.mask_classes import Mask255
from fedcore.data.partition import Partition
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.preprocess.decode import Decoding
from fedcore.data.preprocess.geometry import full_size
from fedcore.data.preprocess.mask_values import (
    check_class_numbers,
    infer_mask_255,
    mask_255_warnings,
    read_mask_values,
)
from fedcore.data.preprocess.scaling import Percentiles, Scaling
from fedcore.data.synthetic.synthetic_set import SITE, Synthetic
from fedcore.errors import InputError, InputErrors
from fedcore.seeds import require_seed
from fedcore.suggest import suggestion


@dataclass(frozen=True)
class Data:
    """Where the images come from and how they become arrays."""

    manifest: str = "phantom"
    """Path of a CSV (image, site, split, label, mask, patient, position), or 'phantom': simulated hospitals."""
    size: int | tuple[int, ...] = 64
    """Pixels per side, or of each axis. Images are resized to fit inside, with their aspect kept: in mm where a file
    contains its pixel spacing, so that voxels become cubes."""
    slices: int | None = None
    """Cuts volumes along this axis into all their slices: 2D images with their position in the volume. 2 runs from
    feet to head (axial), 1 from back to front, 0 from left to right; files without an orientation are cut as stored.
    `size` is then that of a slice (rows, columns), as a viewer shows it; null keeps volumes whole. 2D images of
    `extra_manifests` and `synthetic` are used as they are."""
    channels: int | None = None
    """1 or 3; null: 1 if all images are greyscale, else 3."""
    scaling: Scaling | None = None
    """Raw intensities to [-1, 1]; null: fedcore.data.preprocess.scaling.Percentiles. It does not apply to synthetic
    sets, which are read back with the values that were generated."""
    mask_255: Mask255 | None = None
    """Meaning of 255 in masks, at all sites: class (a structure, class 1) or unlabelled (not annotated, ignored); null:
    class if no mask of the manifest contains a number other than 0 and 255, else unlabelled."""
    nan: Nan = "stop"
    """NaN pixels are an error, or become the least value of the image (minimum): some programs write NaN where nothing
    was measured. Infinite pixels are always an error."""
    sites: tuple[str, ...] | None = None
    """Only these sites of the manifest; null: all of them."""
    partition: Partition | None = None
    """Assigns the patients to simulated sites; null: the sites of the manifest."""
    test_fraction: float = 0.2
    """Fraction of each site's patients that is held out; only used if the manifest has no column split."""
    on_error: Literal["stop", "skip"] = "stop"
    """An unreadable image stops the run before it starts, or is skipped."""
    cache: Path | None = None
    """Folder of the decoded images; null: $FEDPRETRAIN_CACHE, else ~/.cache/fedpretrain."""
    phantom: Phantoms = field(default_factory=Phantoms)
    """Settings of the simulated hospitals."""
    seed: int = 0
    """Seed of the partition and of the held-out patients."""
    extra_manifests: tuple[str, ...] = ()
    """Manifests whose sites are added, such as that of a synthetic set; `sites`, `partition` and `test_fraction` do
    not apply to them."""
    synthetic: Synthetic | None = None
    """A synthetic set that is mixed into every training batch of every site."""
    allow_unaudited: bool = False
    """Use synthetic sets without a passed privacy check; the report contains a warning."""
    columns: Columns = field(default_factory=Columns)
    """Column names of `manifest`, if they differ from the default; `extra_manifests` and `synthetic` have the default
    ones."""
    patients_are_global: bool = False
    """A patient number means the same person at every site; else it means a different person at each site."""

    def read_manifest(self, path: str) -> Manifest:
        """One of its manifests, read with these settings. Raises InputErrors."""
        columns = self.columns if path == self.manifest else DEFAULT_COLUMNS
        return read_manifest(Path(path), columns, self.patients_are_global, self.on_error)

    def load(self, progress: Progress | None = None) -> Cohort:
        """The images of all sites, decoded or from the cache.

        Raises:
            InputErrors: All errors of the manifest, or of the images.
            InputError: A setting does not fit the images, or the disk cannot be written.
        """
        require_seed(self.seed)
        cohort = self._load(progress)
        for manifest in self.extra_manifests:
            extra = self._load_extra(manifest, cohort.channels, progress)
            cohort = join_cohorts(cohort, with_class_warning(extra, cohort))
        if self.synthetic:
            extra = self._load_extra(self.synthetic.manifest, cohort.channels, progress)
            cohort = self.synthetic.add_to(cohort, with_class_warning(extra, cohort))
        require_distinct(cohort.classes)
        return cohort

    def decoding(self, size: tuple[int, ...], channels: int, mask_255: Mask255 = "unlabelled") -> Decoding:
        """How files become images of this size and number of channels; `mask_255` applies to masks."""
        return Decoding(self.scaling or Percentiles(), size, channels, self.slices, mask_255, self.nan)

    def infer_mask_255(self, manifest: Manifest) -> tuple[Mask255, list[str]]:
        """The meaning of 255 in all masks of the manifest, and warnings about their numbers. Raises InputErrors."""
        values = read_mask_values(manifest.rows, self.cache)
        meaning = self.mask_255 or infer_mask_255(values)
        return meaning, [*check_class_numbers(values, meaning), *mask_255_warnings(values, meaning)]

    def _load_extra(self, manifest: str, channels: int, progress: Progress | None) -> Cohort:
        """The sites of another manifest, with equal size and channels; generated slices are 2D already."""
        alone = Data(manifest, self.size, None, channels, self.scaling, self.mask_255, self.nan,
                     test_fraction=0.0, on_error=self.on_error, cache=self.cache,
                     patients_are_global=self.patients_are_global)  # fmt: skip
        if self.slices is not None and alone._dims() == 3:
            alone = replace(alone, slices=self.slices)
        return with_audit_status(alone.load(progress), Path(manifest), self.allow_unaudited)

    def _dims(self) -> int:
        """Spatial dimensions of the files."""
        if self.manifest == "phantom":
            return self.phantom.spatial_dims
        return dims_and_channels(self._sites(self.read_manifest(self.manifest)), self.cache or default_folder())[0]

    def _load(self, progress: Progress | None) -> Cohort:
        if self.manifest == "phantom":
            self._require_volumes(self.phantom.spatial_dims)
            self._require_no_manifest_settings()
            return self.phantom.cohort(self.size, self.slices)
        whole = self.read_manifest(self.manifest)
        manifest = self._chosen(whole)
        sites = self._sites(manifest)
        folder = self.cache or default_folder()
        mask_255, warnings = self.infer_mask_255(whole)
        dims, channels = dims_and_channels(sites, folder)
        self._require_volumes(dims)
        size = full_size(self.size, dims if self.slices is None else dims - 1)
        how = self.decoding(size, self.channels or channels, mask_255)
        cached = decode_sites(sites, how, folder, on_error=self.on_error, progress=progress)
        return build_cohort(replace(manifest, warnings=(*manifest.warnings, *warnings)), sites, cached)

    def _require_no_manifest_settings(self) -> None:
        """Simulated hospitals ignore these settings, so a value is an error."""
        given: dict[str, object] = {"sites": self.sites, "partition": self.partition, "scaling": self.scaling}
        given["channels"] = self.channels if self.channels != 1 else None
        if ignored := [f"data.{name}" for name, value in given.items() if value is not None]:
            raise InputError(
                f"{' and '.join(ignored)} must be omitted if data.manifest is phantom: data.phantom has the settings "
                "of simulated hospitals. fedpretrain data phantom FOLDER writes them as files with a manifest"
            )

    def _require_volumes(self, dims: int) -> None:
        if self.slices is not None and (dims != 3 or not 0 <= self.slices < 3):
            found = f"got axis {self.slices} of {dims}D images"
            raise InputError(f"data.slices cuts volumes along axis 0, 1 or 2; {found}; null leaves images as they are")

    def _chosen(self, manifest: Manifest) -> Manifest:
        """The manifest with the rows of `sites` alone, and the classes that occur there."""
        if self.sites is None:
            return manifest
        names = {row.site for row in manifest.rows}
        if unknown := [f"unknown site {name!r}{suggestion(name, names)}" for name in self.sites if name not in names]:
            raise InputErrors("data.sites", unknown, f"The manifest has {', '.join(sorted(names, key=_natural))}.")
        rows = tuple(row for row in manifest.rows if row.site in self.sites)
        missing = tuple((row, text) for row, text in manifest.missing if row.site in self.sites)
        classes = tuple(sorted({row.label for row in rows if row.label is not None}))
        return replace(manifest, rows=rows, classes=classes, missing=missing)

    def _sites(self, manifest: Manifest) -> dict[str, list[Row]]:
        """Rows by site, in the natural order of names, each with its split."""
        if not 0 <= self.test_fraction < 1:
            raise InputError(f"test_fraction must lie in [0, 1), got {self.test_fraction}")
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels must be 1, 3 or null (as the images are), got {self.channels}")
        names = self.partition(manifest.rows, self.seed) if self.partition else [row.site for row in manifest.rows]
        sites: dict[str, list[Row]] = defaultdict(list)
        for row, name in zip(manifest.rows, names, strict=True):
            sites[name].append(replace(row, site=name, synthetic=row.site == SITE))
        held_out = set() if manifest.has_split else held_out_patients(sites, self.test_fraction, self.seed)
        return {
            site: [replace(row, split="test") if row.patient in held_out else row for row in sites[site]]
            for site in sorted(sites, key=_natural)
        }


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts site_2 before site_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
