"""Coronal slices of the hippocampus volumes as a labelled set: which part of it a slice shows.

Slices know their place in the volume, which is what structural matching (fedssl.methods.fcl) is for; the labels come
from the masks, so that what was learned without them can be measured.
"""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np

CORONAL, EVERY = 1, 2
PARTS = {(False, False): "none", (True, False): "anterior", (False, True): "posterior"}


def slices_of(folder: Path, out: Path) -> Path:
    """Writes every second coronal slice of `folder` into `out` and returns the manifest of them.

    The few slices that show both parts are left out.
    """
    manifest = out / "manifest.csv"
    if manifest.exists():
        return manifest
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        volumes = list(csv.DictReader(file))
    for volume in volumes:
        name = Path(volume["image"]).name.removesuffix(".nii.gz")
        pixels, mask = (
            np.moveaxis(np.asarray(nibabel.load(folder / volume[what]).dataobj), CORONAL, 0)
            for what in ("image", "mask")
        )
        for at in range(0, len(pixels), EVERY):
            part = PARTS.get(((mask[at] == 1).any(), (mask[at] == 2).any()))
            if part is not None:
                image = f"{name}_{at:02}.npy"
                np.save(out / image, pixels[at].astype(np.float32))
                rows.append([image, volume["site"], volume["split"], part, name, at])
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "site", "split", "label", "patient", "position"])
        writer.writerows(rows)
    return manifest
