from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fedcore.data.partition import Partition, Pooled
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.preprocess.scaling import FullRange, Percentiles, Scaling, Window
from fedcore.data.source import Data
from fedcore.data.synthetic.synthetic_set import Synthetic
from fedgen.synthetic.dicom_files import as_dicom
from fedgen.synthetic.image_files import decoded, encoded
from fedgen.synthetic.synthetic_set import add, begin

SIZES = {"picture": (1, 8, 8), "colour": (3, 8, 8), "volume": (1, 8, 8, 8), "channels": (3, 8, 8, 8)}
SCALINGS = [Percentiles(), Window(-1000.0, 400.0), FullRange(16), FullRange(8)]


def synthetic(kind: str, count: int = 3) -> Tensor:
    """Images whose darkest and brightest values are not -1 and 1, which percentiles would stretch."""
    return torch.rand(count, *SIZES[kind], generator=torch.Generator().manual_seed(0)) - 0.7


def written(folder: Path, images: Tensor) -> Path:
    begin(folder, {}, resume=False)
    add(folder, range(len(images)), images, [("cat", None)] * len(images))
    return folder / "manifest.csv"


def read(manifest: Path, images: Tensor, cache: Path, scaling: Scaling | None, partition: Partition | None) -> Tensor:
    data = Data(str(manifest), size=8, channels=None, scaling=scaling, partition=partition, cache=cache)
    (site,) = data.load().sites.values()
    return site.batch(range(len(images)))


@pytest.mark.parametrize("kind", SIZES)
def test_a_set_is_read_unchanged_with_every_scaling(tmp_path: Path, kind: str) -> None:
    images = synthetic(kind)
    manifest, one_level = written(tmp_path / "set", images), 2 / (255 if images.dim() == 4 else 4095)
    for scaling in SCALINGS:
        found = read(manifest, images, tmp_path / "cache", scaling, None)
        assert (found - images).abs().max() <= one_level / 2 + 5e-4  # float16 in the cache
    assert torch.equal(read(manifest, images, tmp_path / "cache", SCALINGS[1], Pooled()), found)
    audited = torch.stack([decoded(path) for path in sorted((tmp_path / "set" / "images").iterdir())])
    assert (audited - found).abs().max() <= 5e-4


@pytest.mark.parametrize("kind", ["picture", "volume"])
def test_a_dicom_release_is_read_unchanged(tmp_path: Path, kind: str) -> None:
    images = synthetic(kind)
    for at, image in enumerate(images):
        (tmp_path / f"{at}.dcm").write_bytes(as_dicom(image, at, ["set"]))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("image,site\n" + "".join(f"{at}.dcm,synthetic\n" for at in range(len(images))))
    found = read(manifest, images, tmp_path / "cache", Window(-1000.0, 400.0), None)
    assert (found - images).abs().max() <= 1 / 4095 + 5e-4


@pytest.mark.parametrize("place", ["extra_manifests", "synthetic"])
def test_generated_slices_join_slices_of_volumes(tmp_path: Path, place: str) -> None:
    """With their masks and their own grey levels; generated volumes are cut into slices like real ones."""
    hospitals = Phantoms(sites=2, images_per_site=4, spatial_dims=3, seed=1).write(tmp_path / "hospitals", 16)
    data = Data(
        str(hospitals), size=8, slices=2, scaling=Window(-1000.0, 400.0), cache=tmp_path / "cache", allow_unaudited=True
    )
    for kind, count in (("picture", 3), ("volume", 3 * 8)):
        images = synthetic(kind)
        folder = tmp_path / kind
        begin(folder, {}, resume=False)
        add(folder, range(3), images, [("lesion", None)] * 3, (images[:, 0] > 0).long())
        manifest = str(folder / "manifest.csv")
        how = {"extra_manifests": (manifest,)} if place == "extra_manifests" else {"synthetic": Synthetic(manifest)}
        cohort = replace(data, **how).load()
        if place == "extra_manifests":
            found = cohort.sites["synthetic"]
        else:
            added = next(iter(cohort.sites.values())).added
            assert added is not None
            found = added.images
        slices = images.movedim(-1, 1).flip(-1, -2).transpose(-1, -2)  # of volumes, as a viewer shows them
        expected = images if kind == "picture" else slices.reshape(24, 1, 8, 8)
        assert len(found) == count
        assert (found.batch(range(count)) - expected).abs().max() <= 1 / 255 + 5e-4
        assert torch.equal(found.mask_batch(range(count)), (expected[:, 0] > 0).long())
        assert (found.positions is None) == (kind == "picture")


def test_grey_levels_are_rounded_and_equal_volumes_are_equal_files() -> None:
    data, ending = encoded(torch.tensor([[[-1.0, 0.0], [1.0, 2.0]]]))
    assert ending == "png"
    assert np.asarray(Image.open(io.BytesIO(data))).tolist() == [[0, 128], [255, 255]]
    volume = torch.linspace(-1, 1, 64).view(1, 4, 4, 4)
    assert encoded(volume) == encoded(volume)
