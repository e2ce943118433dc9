"""The `data:` section of a recipe."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from fedcore.data.cache.cache import Progress, Store, decode_sites, default_folder, told
from fedcore.data.dataset import Cohort, Images, joined
from fedcore.data.dimensions import survey
from fedcore.data.duplicates import equal_images
from fedcore.data.io.masks import Meaning
from fedcore.data.io.readers import Nan
from fedcore.data.manifest.columns import OURS, Columns
from fedcore.data.manifest.label_names import require_distinct
from fedcore.data.manifest.manifest import Manifest, Row, read_manifest
from fedcore.data.manifest.split_notes import split_notes
from fedcore.data.partition import Partition
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.preprocess.clipping import clipping_notes
from fedcore.data.preprocess.decode import Decoding
from fedcore.data.preprocess.geometry import full_size
from fedcore.data.preprocess.mask_values import mask_notes, meaning_of_255, met_in_masks, require_numbered
from fedcore.data.preprocess.scaling import Percentiles, Scaling
from fedcore.data.preprocess.slices import emptied
from fedcore.data.synthetic.synthetic_set import SITE, Synthetic, standing
from fedcore.errors import InputError, InputErrors
from fedcore.seeds import require_seed
from fedcore.suggest import nearest


@dataclass(frozen=True)
class Data:
    """Where the images come from and how they become arrays."""

    manifest: str = "phantom"
    """Path of a CSV (image, site, split, label, mask, patient, position), or 'phantom': the built-in hospitals."""
    size: int | tuple[int, ...] = 64
    """Pixels of a side, or of each axis; images are fitted inside, their aspect kept, in mm where a file says how far
    apart its pixels are. So voxels become cubes."""
    slices: int | None = None
    """Cuts volumes along this axis into all their slices: 2D images that know their position in the volume. 2 runs from
    feet to head (axial), 1 from back to front, 0 from left to right; of files that do not say how they lie, as stored.
    `size` is then a slice's (rows, columns), as a viewer shows it; null keeps volumes whole. 2D images of
    `extra_manifests` and `synthetic` join slices as they are."""
    channels: int | None = None
    """1 or 3; null: 1 if the sites' images are grey, else 3."""
    scaling: Scaling | None = None
    """Raw intensities to [-1, 1]; null: fedcore.data.preprocess.scaling.Percentiles. Images of a synthetic set come
    back as they were drawn, whatever stands here."""
    mask_255: Meaning | None = None
    """What 255 stands for in masks, at all sites: class, a structure (class 1), or unlabelled, where nobody has looked;
    null: class where no mask of the manifest holds a number other than 0 and 255, else unlabelled."""
    nan: Nan = "stop"
    """NaN pixels are a fault, or take the image's least value (minimum): some programs write them where nothing was
    measured. Infinite ones are always a fault."""
    sites: tuple[str, ...] | None = None
    """Only these sites of the manifest; null: all of them."""
    partition: Partition | None = None
    """Deals the patients to other sites than the manifest's; null: the manifest's."""
    test_fraction: float = 0.2
    """Part of each site's patients held out; only where the manifest has no split column."""
    on_error: Literal["stop", "skip"] = "stop"
    """An unreadable image stops the run before it starts, or is left out."""
    cache: Path | None = None
    """Folder of the decoded images; null: $FEDPRETRAIN_CACHE, else ~/.cache/fedpretrain."""
    phantom: Phantoms = field(default_factory=Phantoms)
    """Settings of the phantom hospitals."""
    seed: int = 0
    """Of the partition and of the held-out patients."""
    extra_manifests: tuple[str, ...] = ()
    """Manifests whose sites join these, such as that of a synthetic set; `sites`, `partition` and `test_fraction` do
    not touch them."""
    synthetic: Synthetic | None = None
    """A synthetic set that joins every training batch of every site."""
    allow_unaudited: bool = False
    """Take synthetic sets that no audit found private; the run's page says so."""
    columns: Columns = field(default_factory=Columns)
    """What `manifest` calls its columns, where those are not ours; `extra_manifests` and `synthetic` have ours."""
    patients_are_global: bool = False
    """A patient's number means the same person at every site; else each site numbers its own patients."""

    def read(self, manifest: str) -> Manifest:
        """One of its manifests, as these settings read it. Raises InputErrors."""
        columns = self.columns if manifest == self.manifest else OURS
        return read_manifest(Path(manifest), columns, self.patients_are_global, self.on_error)

    def load(self, progress: Progress | None = None) -> Cohort:
        """All sites, decoded or from the cache.

        Raises:
            InputErrors: of the manifest, or of the images, all at once.
            InputError: a setting that does not suit the images, or a disk that cannot be written.
        """
        require_seed(self.seed)
        cohort = self._load(progress)
        for manifest in self.extra_manifests:
            cohort = joined(cohort, _noting_new_classes(cohort, self._other(manifest, cohort.channels, progress)))
        if self.synthetic:
            drawn = self._other(self.synthetic.manifest, cohort.channels, progress)
            cohort = self.synthetic.join(cohort, _noting_new_classes(cohort, drawn))
        require_distinct(cohort.classes)
        return cohort

    def decoding(self, size: tuple[int, ...], channels: int, mask_255: Meaning = "unlabelled") -> Decoding:
        """How files become images of this size and of so many channels; `mask_255` matters where masks are read."""
        return Decoding(self.scaling or Percentiles(), size, channels, self.slices, mask_255, self.nan)

    def meaning_of_255(self, manifest: Manifest) -> tuple[Meaning, list[str]]:
        """In all masks of the manifest, and what is worth telling of their numbers. Raises InputErrors."""
        met = met_in_masks(manifest.rows, self.cache)
        meaning = self.mask_255 or meaning_of_255(met)
        return meaning, [*require_numbered(met, meaning), *mask_notes(met, meaning)]

    def _other(self, manifest: str, channels: int, progress: Progress | None) -> Cohort:
        """The sites of another manifest, in the form of these; slices that a generator drew are 2D already."""
        alone = Data(manifest, self.size, None, channels, self.scaling, self.mask_255, self.nan,
                     test_fraction=0.0, on_error=self.on_error, cache=self.cache,
                     patients_are_global=self.patients_are_global)  # fmt: skip
        if self.slices is not None and alone._dims() == 3:
            alone = replace(alone, slices=self.slices)
        cohort = alone.load(progress)
        found = standing(Path(manifest), cohort.sites)
        if found.doubt and not self.allow_unaudited:
            raise InputError(
                f"{manifest} is {found.doubt}; first: fedpretrain generate audit RUN {Path(manifest).parent}; "
                "data.allow_unaudited true takes it all the same, and the run says so"
            )
        note = f"{found.doubt} was taken all the same" if found.doubt else found.note
        return replace(cohort, notes=(*cohort.notes, *([note] if note else [])))

    def _dims(self) -> int:
        """Spatial dimensions of the files."""
        if self.manifest == "phantom":
            return self.phantom.spatial_dims
        return survey(self._sites(self.read(self.manifest)), self.cache or default_folder())[0]

    def _load(self, progress: Progress | None) -> Cohort:
        if self.manifest == "phantom":
            self._require_cuttable(self.phantom.spatial_dims)
            self._require_nothing_of_manifests()
            return self.phantom.cohort(self.size, self.slices)
        whole = self.read(self.manifest)
        manifest = self._chosen(whole)
        sites = self._sites(manifest)
        folder = self.cache or default_folder()
        mask_255, notes = self.meaning_of_255(whole)
        dims, channels = survey(sites, folder)
        self._require_cuttable(dims)
        size = full_size(self.size, dims if self.slices is None else dims - 1)
        how = self.decoding(size, self.channels or channels, mask_255)
        stores = decode_sites(sites, how, folder, on_error=self.on_error, progress=progress)
        return _cohort(replace(manifest, notes=(*manifest.notes, *notes)), sites, stores)

    def _require_nothing_of_manifests(self) -> None:
        """Phantom hospitals are drawn as they are trained on, and would leave such settings unheard."""
        said: dict[str, object] = {"sites": self.sites, "partition": self.partition, "scaling": self.scaling}
        said["channels"] = self.channels if self.channels != 1 else None
        if unheard := [f"data.{name}" for name, value in said.items() if value is not None]:
            raise InputError(
                f"{' and '.join(unheard)} must be left away where data.manifest is phantom, whose sites data.phantom "
                "sets; fedpretrain data phantom FOLDER writes such sites with a manifest"
            )

    def _require_cuttable(self, dims: int) -> None:
        if self.slices is not None and (dims != 3 or not 0 <= self.slices < 3):
            found = f"got axis {self.slices} of {dims}D images"
            raise InputError(f"data.slices cuts volumes along axis 0, 1 or 2; {found}; null leaves images as they are")

    def _chosen(self, manifest: Manifest) -> Manifest:
        """The manifest's rows of the sites asked for; its classes are those that occur there."""
        if self.sites is None:
            return manifest
        names = {row.site for row in manifest.rows}
        if unknown := [f"{name!r} is no site{nearest(name, names)}" for name in self.sites if name not in names]:
            raise InputErrors("data.sites", unknown, f"The manifest has {', '.join(sorted(names, key=_natural))}.")
        rows = tuple(row for row in manifest.rows if row.site in self.sites)
        absent = tuple((row, text) for row, text in manifest.absent if row.site in self.sites)
        classes = tuple(sorted({row.label for row in rows if row.label is not None}))
        return replace(manifest, rows=rows, classes=classes, absent=absent)

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
        held = set() if manifest.has_split else _held_out(sites, self.test_fraction, self.seed)
        return {
            site: [replace(row, split="test") if row.patient in held else row for row in sites[site]]
            for site in sorted(sites, key=_natural)
        }


def _noting_new_classes(cohort: Cohort, other: Cohort) -> Cohort:
    """`other`, with a note on classes that `cohort` lacks: a model would learn them, and no test image has them."""
    new = sorted({*other.classes} - {*cohort.classes})
    if not new or not cohort.classes:
        return other
    note = (
        f"images of {', '.join(sorted(other.sites))} have classes that no image of the run's own manifest has: "
        f"{', '.join(new[:10])}; classes are matched by name"
    )
    return replace(other, notes=(*other.notes, note))


def _natural(name: str) -> list[tuple[int, str]]:
    """site_2 before site_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _held_out(sites: Mapping[str, Sequence[Row]], fraction: float, seed: int) -> set[str]:
    """A part of each site's patients, at least one of two.

    A patient of two sites who is held out at one is held out at the other too.
    """
    held: set[str] = set()
    for site in sorted(sites):
        patients = sorted({row.patient for row in sites[site]})
        rng = np.random.default_rng([seed, *site.encode()])
        count = min(max(1, round(fraction * len(patients))), len(patients) - 1) if fraction else 0
        held |= {patients[at] for at in rng.permutation(len(patients))[:count]}
    return held


def _cohort(manifest: Manifest, sites: Mapping[str, Sequence[Row]], stores: Mapping[str, Store]) -> Cohort:
    numbers = {patient: at for at, patient in enumerate(dict.fromkeys(row.patient for row in manifest.rows))}
    classes = {None: -1} | {name: at for at, name in enumerate(manifest.classes)}
    rows_of = [row for site in stores for row in sites[site]]
    digests = [digest for store in stores.values() for digest in store.digests]
    notes = [*manifest.notes, *split_notes(rows_of), *equal_images(rows_of, digests)]
    images, faults = {}, []
    absent = {row.number: row.site for row, _ in manifest.absent}
    faults += [f"site '{site}', row {number}: its image or mask is missing or empty" for number, site in absent.items()]
    for site, store in stores.items():
        faults += told(site, sites[site], store.faults, names=False)
        notes += told(site, sites[site], tuple((at, "constant image") for at in store.constant), names=False)
        notes += emptied(site, store.empty)
        notes += clipping_notes(site, store.clipping)
        if rows := [sites[site][at] for at in store.kept]:
            images[site] = Images(
                site=site,
                pixels=store.pixels,
                splits=np.array([row.split for row in rows]),
                labels=torch.tensor([classes[row.label] for row in rows]),
                patients=np.array([numbers[row.patient] for row in rows]),
                masks=store.masks,
                rows=np.array([row.number for row in rows]),
                positions=_positions(rows) if store.positions is None else store.positions,
                spacing=store.spacing,
            )
    if not images:
        raise InputErrors("images", faults, "Not one image can be used.")
    return Cohort(images, manifest.classes, (*notes, *_unspaced(images)), tuple(faults))


def _unspaced(images: Mapping[str, Images]) -> list[str]:
    """A note a site whose files do not all say how far apart their pixels are, where others do."""
    unknown = {site: i.unspaced for site, i in images.items()}
    if sum(unknown.values()) == sum(map(len, images.values())):
        return []
    return [
        f"site '{site}': {count} of {len(images[site])} images do not say how large a pixel is; it "
        "is taken for a square or cube, and distances count pixels, the "
        "others' mm"
        for site, count in unknown.items()
        if count
    ]


def _positions(rows: Sequence[Row]) -> np.ndarray | None:
    """As the manifest tells them, of all images or of none."""
    known = [row.position for row in rows if row.position is not None]
    return np.array(known, np.float32) if len(known) == len(rows) else None
