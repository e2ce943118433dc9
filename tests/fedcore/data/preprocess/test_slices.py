from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.fingerprint import fingerprint
from fedcore.data.loader import loader
from fedcore.data.manifest.row import Row
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.preprocess.decode import Decoding, decode
from fedcore.data.preprocess.geometry import fit
from fedcore.data.preprocess.scaling import FullRange, Percentiles
from fedcore.data.preprocess.slices import cut_mask_slices, cut_slices, non_empty_slices, normalise_positions
from fedcore.data.source import Data
from fedcore.errors import InputError, Refused

SHAPE = (6, 7, 8)
PHANTOMS = Phantoms(sites=2, images_per_site=4, spatial_dims=3)


def hospital(folder: Path, **more: object) -> Data:
    """Two volumes at each of two sites, with masks that number the slices of axis 2; the first volume has air below."""
    lines, rng = ["image,site,split,label,mask,patient"], np.random.default_rng(0)
    for at in range(4):
        volume, mask = rng.random(SHAPE).astype(np.float32), np.broadcast_to(np.arange(8, dtype=np.uint8), SHAPE)
        if at == 0:
            volume[..., :2] = 0
        for name, array in (("image", volume), ("mask", mask)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{at}_{name}.nii.gz")
        split = "train" if at % 2 else "test"
        lines.append(f"{at}_image.nii.gz,{'ab'[at // 2]},{split},{'xyyx'[at]},{at}_mask.nii.gz,p{at}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    settings = {"slices": 2, "size": (7, 6), "cache": folder / "cache"} | more
    return Data(str(folder / "manifest.csv"), **settings)  # type: ignore[arg-type]


def rows(folder: Path) -> list[Row]:
    return [Row(2 + at, folder / f"{at}_image.nii.gz", "a", "train", None, None, str(at)) for at in range(4)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_slices_of_equal_size_are_those_of_indexing(axis: int, channels: int) -> None:
    volume = np.random.default_rng(0).random((channels, *SHAPE)).astype(np.float32)
    size = tuple(np.delete(SHAPE, axis).tolist())
    slices, masks = cut_slices(volume, axis, size), cut_mask_slices((volume[0] * 9).astype(np.uint8), axis, size)
    assert slices.shape == (SHAPE[axis], channels, *size)
    for depth in range(SHAPE[axis]):
        assert np.array_equal(slices[depth], volume.take(depth, axis + 1))
        assert np.array_equal(masks[depth], (volume[0] * 9).astype(np.uint8).take(depth, axis))


def test_slices_are_resized_one_by_one_with_equal_padding() -> None:
    volume = np.random.default_rng(0).random((1, 3, 8, 16)).astype(np.float32)
    slices = cut_slices(volume, 0, (8, 8))
    inner, margins = slices[:, :, 2:-2], np.delete(slices, range(2, 6), axis=2)
    for depth in range(3):
        alone = fit(volume[:, depth], (8, 8), channels=1)
        assert np.allclose(inner[depth], alone[:, 2:-2], atol=1e-6)
    assert (margins == volume.min()).all()  # not each slice's own minimum


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3, 1, 2], [1, 0, 0.5]), ([-120.5, 0, 120.5], [0, 0.5, 1]), ([7], [0.5]), ([4, 4], [0.5, 0.5]), ([], [])],
)
def test_positions_are_scaled_to_0_and_1(values: list[float], expected: list[float]) -> None:
    assert normalise_positions(np.array(values, np.float64)).tolist() == expected


def test_an_empty_slice_has_one_value() -> None:
    slices = np.zeros((4, 1, 2, 2), np.float16)
    slices[1, 0, 0, 0], slices[2] = 1, 5
    assert non_empty_slices(slices).tolist() == [1]


def test_intensities_are_scaled_as_a_volume(tmp_path: Path) -> None:
    hospital(tmp_path)
    row, how = rows(tmp_path)[1], Decoding(Percentiles(), (7, 6), 1, slices=2)
    whole = decode(row, Decoding(Percentiles(), SHAPE, 1))
    slices = decode(row, how)
    assert np.array_equal(slices.pixels[:, 0], np.moveaxis(whole.pixels[0, 0, ::-1, ::-1], (2, 1, 0), (0, 1, 2)))
    assert slices.positions is not None
    assert np.allclose(slices.positions, np.linspace(0, 1, 8))


def test_volumes_become_slices_with_positions(tmp_path: Path) -> None:
    cohort = hospital(tmp_path).load()
    assert (cohort.size, cohort.spatial_dims, cohort.channels) == ((7, 6), 2, 1)
    assert cohort.warnings == ("site 'a': empty slices left out: 2",)
    a, b = cohort.sites.values()
    assert (len(a), len(b)) == (6 + 8, 8 + 8)
    assert isinstance(a.pixels, np.memmap)
    for images in (a, b):
        assert images.positions is not None
        for patient in set(images.patients.tolist()):
            of = images.patients == patient
            depths = images.positions[of]
            assert depths[0] == 0
            assert depths[-1] == 1
            assert (np.diff(depths) > 0).all()
            assert len({*images.splits[of]}) == len({*images.labels[of].tolist()}) == len({*images.rows[of]}) == 1
    assert a.mask_batch([0, 6]).flatten(1).unique(dim=1).tolist() == [[2], [0]]  # the first slices that are not empty
    train = a.select("train")
    assert torch.equal(train.targets("positions", [7, 0]), torch.tensor([1.0, 0.0]))


def test_slices_are_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hospital(tmp_path)
    first = data.load()
    monkeypatch.setattr("fedcore.data.dimensions.read_image", None)
    monkeypatch.setattr("fedcore.data.preprocess.decode.read_image", None)
    again = data.load()
    assert fingerprint(again) == fingerprint(first)
    assert again.warnings == first.warnings
    for site, images in first.sites.items():
        assert np.array_equal(again.sites[site].pixels, images.pixels)
        assert np.array_equal(again.sites[site].positions, images.positions)


def test_the_axis_is_part_of_the_cache_key(tmp_path: Path) -> None:
    axial, coronal = hospital(tmp_path).load(), hospital(tmp_path, slices=1, size=(6, 8)).load()
    assert len(coronal.sites["b"]) == 2 * 7
    assert fingerprint(axial) != fingerprint(coronal)
    assert hospital(tmp_path, slices=None, size=8).load().sites["b"].pixels.shape == (2, 1, 8, 8, 8)


def test_positions_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    def of(positions: list[float] | None) -> str:
        place = None if positions is None else np.array(positions, np.float32)
        pixels, three = np.zeros((3, 1, 2, 2), np.float16), np.arange(3)
        images = Images("s", pixels, np.full(3, "train"), torch.zeros(3).long(), three, positions=place)
        return fingerprint(Cohort({"s": images}, ()))

    assert len({of(None), of([0, 0.5, 1]), of([0, 0.4, 1]), of([1, 0.5, 0])}) == 4


def test_a_constant_volume_has_no_slices_and_a_warning(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4)), tmp_path / "1_image.nii.gz")
    cohort = data.load()
    assert len(cohort.sites["a"]) == 6
    assert "site 'a', row 3: constant image" in cohort.warnings
    assert "site 'a': empty slices left out: 10" in cohort.warnings


@pytest.mark.parametrize("axis", [-1, 3])
def test_another_axis_is_an_error(tmp_path: Path, axis: int) -> None:
    with pytest.raises(InputError, match=rf"axis 0, 1 or 2; got axis {axis} of 3D images"):
        hospital(tmp_path, slices=axis).load()


def test_cutting_2d_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of 2D images; null leaves images as they are"):
        Data(slices=0).load()
    np.save(tmp_path / "a.npy", np.eye(6))
    (tmp_path / "manifest.csv").write_text("image,site\na.npy,s\n")
    with pytest.raises(InputError, match="cuts volumes along axis 0, 1 or 2; got axis 1 of 2D images"):
        Data(str(tmp_path / "manifest.csv"), slices=1, cache=tmp_path / "cache").load()


def test_size_is_that_of_a_slice(tmp_path: Path) -> None:
    assert hospital(tmp_path, size=16).load().sites["b"].pixels.shape == (16, 1, 16, 16)
    with pytest.raises(InputError, match="size must be one number or 2"):
        hospital(tmp_path, size=SHAPE).load()


def test_simulated_volumes_are_cut_in_the_same_way(tmp_path: Path) -> None:
    """In memory and from the files that `data phantom` writes."""
    made = Data(size=(16, 20), slices=0, phantom=PHANTOMS).load()
    manifest = PHANTOMS.write(tmp_path, (20, 20, 16))
    read = Data(str(manifest), size=(16, 20), slices=0, cache=tmp_path / "cache", scaling=Percentiles()).load()
    assert list(made.sites) == list(read.sites)
    for site, images in made.sites.items():
        other = read.sites[site]
        assert len(images) == len(other) == 4 * 20
        assert np.array_equal(images.pixels, other.pixels)
        assert np.array_equal(images.masks, other.masks)
        assert np.array_equal(images.positions, other.positions)
        assert np.array_equal(images.rows, other.rows)
        assert torch.equal(images.labels, other.labels)


def test_empty_simulated_slices_have_a_warning() -> None:
    class Dark(Phantoms):
        def scans(self, size):  # type: ignore[no-untyped-def]
            for scans in super().scans(size):
                scans.raw[:, :3] = 0
                yield scans

    cohort = Dark(sites=1, images_per_site=2, spatial_dims=3).cohort(16, slices=0)
    assert len(cohort.sites["hospital_1"]) == 2 * 13
    assert cohort.warnings == ("site 'hospital_1': empty slices left out: 6",)


def with_positions(folder: Path, positions: str) -> Cohort:
    lines = ["image,site,split,patient,position"]
    for at, position in enumerate(positions.split()):
        np.save(folder / f"{at}.npy", np.random.default_rng(at).random((6, 6)))
        lines.append(f"{at}.npy,s,train,p{at // 3},{position.strip('-')}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return Data(str(folder / "manifest.csv"), size=6, cache=folder / "cache").load()


def test_positions_of_a_manifest_are_targets(tmp_path: Path) -> None:
    site = with_positions(tmp_path, "10 30 20 7 -- 1").sites["s"]
    assert site.positions is None  # one image has none
    with pytest.raises(
        Refused, match=r"position in the volume is not known for every image; .* data\.slices, or give every"
    ):
        next(iter(loader(site, 4, shuffle=False, targets="positions")))
    site = with_positions(tmp_path, "10 30 20 7 5 1").sites["s"]
    pixels, positions = next(iter(loader(site, 6, shuffle=False, targets="positions")))
    assert torch.allclose(positions, torch.tensor([0, 1, 0.5, 1, 4 / 6, 0]))
    assert torch.equal(pixels, site.batch(range(6)))


@pytest.mark.slow
def test_real_volumes(real_data: Path, tmp_path: Path) -> None:
    manifest = str(real_data / "hippocampus3d" / "manifest.csv")
    cohort = Data(manifest, size=32, slices=1, scaling=FullRange(16), cache=tmp_path).load()
    volumes = len(Path(manifest).read_text().strip().splitlines()) - 1
    sliced = [images for images in cohort.sites.values() if len(images)]
    assert sum(len(set(images.rows)) for images in sliced) == volumes
    assert sum(map(len, sliced)) > 20 * volumes
    for images in sliced:
        assert images.positions is not None
        assert (images.positions == 0).sum() == (images.positions == 1).sum() == len(set(images.rows))
        assert images.mask_batch([0]).shape == (1, 32, 32)
