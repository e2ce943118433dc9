"""From the rows of a manifest and their decoded images to the cohort of a run, with its warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fedcore.data.cache.cached_site import CachedSite
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.duplicates import duplicate_warnings
from fedcore.data.manifest.manifest import Manifest
from fedcore.data.manifest.row import Row, row_messages
from fedcore.data.manifest.split_warnings import split_warnings
from fedcore.data.preprocess.clipping import clipping_warnings
from fedcore.data.preprocess.slices import empty_slice_warnings
from fedcore.errors import InputErrors


def build_cohort(manifest: Manifest, sites: Mapping[str, Sequence[Row]], cached: Mapping[str, CachedSite]) -> Cohort:
    """The images of all sites that have one.

    Args:
        manifest: The manifest, for its classes and warnings.
        sites: Rows by site, each with its final split.
        cached: The decoded images of these rows, by site.

    Raises:
        InputErrors: No image can be used.
    """
    numbers = {patient: at for at, patient in enumerate(dict.fromkeys(row.patient for row in manifest.rows))}
    classes = {None: -1} | {name: at for at, name in enumerate(manifest.classes)}
    rows_of_all = [row for site in cached for row in sites[site]]
    digests = [digest for found in cached.values() for digest in found.digests]
    warnings = [*manifest.warnings, *split_warnings(rows_of_all), *duplicate_warnings(rows_of_all, digests)]
    missing = {row.number: row.site for row, _ in manifest.missing}
    skipped = [f"site '{site}', row {row}: its image or mask is missing or empty" for row, site in missing.items()]
    images = {}
    for site, found in cached.items():
        skipped += row_messages(site, sites[site], found.errors)
        warnings += row_messages(site, sites[site], [(at, "constant image") for at in found.constant])
        warnings += empty_slice_warnings(site, found.empty)
        warnings += clipping_warnings(site, found.clipping)
        if rows := [sites[site][at] for at in found.kept]:
            images[site] = Images(
                site=site,
                pixels=found.pixels,
                splits=np.array([row.split for row in rows]),
                labels=torch.tensor([classes[row.label] for row in rows]),
                patients=np.array([numbers[row.patient] for row in rows]),
                masks=found.masks,
                rows=np.array([row.number for row in rows]),
                positions=_positions(rows) if found.positions is None else found.positions,
                spacing=found.spacing,
            )
    if not images:
        raise InputErrors("images", skipped, "No image can be used.")
    return Cohort(images, manifest.classes, (*warnings, *_spacing_warnings(images)), tuple(skipped))


def _spacing_warnings(images: Mapping[str, Images]) -> list[str]:
    """A warning for each site whose files do not all contain a spacing, unless no file of any site does."""
    unknown = {site: i.without_spacing for site, i in images.items()}
    if sum(unknown.values()) == sum(map(len, images.values())):
        return []
    return [
        f"site '{site}': {count} of {len(images[site])} images have no pixel spacing; their pixels are treated "
        "as squares or cubes, and distances are in pixels, those of the other images in mm"
        for site, count in unknown.items()
        if count
    ]


def _positions(rows: Sequence[Row]) -> np.ndarray | None:
    """Those of the manifest; None unless every image has one."""
    known = [row.position for row in rows if row.position is not None]
    return np.array(known, np.float32) if len(known) == len(rows) else None
