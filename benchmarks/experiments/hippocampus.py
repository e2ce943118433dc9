"""Coronal slices of the hippocampus volumes as a labelled dataset: which part of the hippocampus a slice shows.

The manifest has the position of each slice in its volume, for structural matching (fedssl.methods.fcl). The labels
are made from the masks; pretraining does not use them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np

CORONAL, STEP = 1, 2
PARTS = {(False, False): "none", (True, False): "anterior", (False, True): "posterior"}


def coronal_slices(folder: Path, out: Path) -> Path:
    """Writes every second coronal slice of `folder` into `out` and returns their manifest.

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
        for index in range(0, len(pixels), STEP):
            part = PARTS.get(((mask[index] == 1).any(), (mask[index] == 2).any()))
            if part is not None:
                image = f"{name}_{index:02}.npy"
                np.save(out / image, pixels[index].astype(np.float32))
                rows.append([image, volume["site"], volume["split"], part, name, index])
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "site", "split", "label", "patient", "position"])
        writer.writerows(rows)
    return manifest
