"""Simulated hospitals: their properties, and that the shift of scanners lowers accuracy."""

from __future__ import annotations

import csv
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from fedcore.data.phantom.anatomy import FINDINGS, make_images
from fedcore.data.phantom.phantoms import FIELD_OF_VIEW_MM, Phantoms
from fedcore.data.preprocess.scaling import Percentiles
from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors

CLEAR = FINDINGS.index("clear")
SMALL_2D = Phantoms(sites=3, images_per_site=41)
SMALL_3D = Phantoms(sites=2, images_per_site=12, spatial_dims=3)
BOTH = pytest.mark.parametrize(("phantoms", "size"), [(SMALL_2D, (32, 40)), (SMALL_3D, (16, 20, 24))])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the cohort ---


@BOTH
def test_the_cohort_has_the_promised_shapes_and_range(phantoms: Phantoms, size: tuple[int, ...]) -> None:
    cohort = phantoms.cohort(size)
    assert list(cohort.sites) == [f"hospital_{i + 1}" for i in range(phantoms.sites)]
    assert cohort.classes == FINDINGS == tuple(sorted(FINDINGS))
    for site in cohort.sites.values():
        assert site.pixels.shape == (phantoms.images_per_site, 1, *size)
        assert site.pixels.dtype == np.float16
        assert np.isfinite(site.pixels).all()
        assert site.pixels.min() == -1
        assert site.pixels.max() == 1
        assert site.masks is not None
        assert site.masks.shape == (phantoms.images_per_site, *size)
        assert site.masks.dtype == np.uint8


@BOTH
def test_a_mask_contains_a_finding_if_the_label_does(phantoms: Phantoms, size: tuple[int, ...]) -> None:
    for scans in phantoms.scans(size):
        masks = scans.masks.flatten(1)
        assert torch.equal((masks == 2).any(1), scans.labels != CLEAR)
        assert (masks == 1).any(1).all()
        assert (masks == 0).any(1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_every_finding_is_in_the_mask_at_the_smallest_size(dims: int) -> None:
    labels = torch.arange(240) % 4
    _, masks = make_images(labels, torch.arange(240), (16,) * dims, generator())
    assert torch.equal((masks.flatten(1) == 2).any(1), labels != CLEAR)


def test_images_depend_on_the_seed_alone() -> None:
    one, same, other = (SMALL_2D.cohort(32), SMALL_2D.cohort(32), replace(SMALL_2D, seed=1).cohort(32))
    for name, site in one.sites.items():
        assert np.array_equal(site.pixels, same.sites[name].pixels)
        assert torch.equal(site.labels, same.sites[name].labels)
        assert not np.array_equal(site.pixels, other.sites[name].pixels)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = next(SMALL_2D.scans(32)).raw
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(next(SMALL_2D.scans(32)).raw, first)


def test_a_site_does_not_depend_on_the_number_of_sites() -> None:
    few, many = replace(SMALL_2D, sites=1), replace(SMALL_2D, sites=6)
    assert torch.equal(next(few.scans(32)).raw, next(many.scans(32)).raw)


def test_hospitals_have_different_patients() -> None:
    first, second, third = SMALL_2D.scans(32)
    assert not torch.equal(first.masks, second.masks)
    everyone = [set(scans.patients.tolist()) for scans in (first, second, third)]
    assert sum(map(len, everyone)) == len(set.union(*everyone))


@pytest.mark.parametrize(("images", "fraction"), [(400, 0.25), (41, 0.25), (4, 0.01), (4, 0.99)])
def test_splits_have_different_patients_and_are_not_empty(images: int, fraction: float) -> None:
    phantoms = Phantoms(sites=2, images_per_site=images, test_fraction=fraction)
    for site in phantoms.cohort(16).sites.values():
        train, test = site.select("train"), site.select("test")
        assert len(train) + len(test) == images
        assert len(train) > 0
        assert len(test) > 0
        assert not set(train.patients) & set(test.patients)


def test_a_single_patient_is_in_the_training_split() -> None:
    assert next(Phantoms(images_per_site=2).scans(16)).splits == ("train", "train")


def test_images_of_one_patient_are_similar() -> None:
    patients = torch.arange(60) // 2
    clean, _ = make_images(torch.zeros(60, dtype=torch.long), patients, (32, 32), generator())
    pairs = clean.view(30, 2, -1)
    within = (pairs[:, 0] - pairs[:, 1]).square().mean()
    between = (pairs[:, 0] - pairs[:, 1].roll(1, 0)).square().mean()
    assert 0 < 2 * within < between


def test_class_priors_differ_between_hospitals_but_no_class_is_missing() -> None:
    counts = torch.stack([torch.bincount(s.labels, minlength=4) for s in Phantoms().scans(16)]) / 400
    assert counts.min() > 0.1
    assert (counts.amax(0) - counts.amin(0)).min() > 0.04


def test_the_label_does_not_follow_from_brightness() -> None:
    scans = next(Phantoms(sites=1).scans(64))
    mean = scans.raw.flatten(1).mean(1)
    within = torch.stack([mean[scans.labels == k].mean() for k in range(4)])
    assert within.std() < 0.5 * mean.std()


def test_hundreds_of_hospitals_are_possible() -> None:
    hospitals = list(Phantoms(sites=200, images_per_site=1).scans(16))
    assert len({scans.site for scans in hospitals}) == 200
    assert all(scans.raw.isfinite().all() and scans.raw.min() >= 0 for scans in hospitals)


def test_all_errors_are_reported_together() -> None:
    with pytest.raises(InputErrors) as caught:
        Phantoms(sites=0, spatial_dims=4, test_fraction=1.0)
    assert len(caught.value.errors) == 3
    with pytest.raises(InputError, match="at least 16"):
        Phantoms().cohort(8)


# --- files ---


def read_table(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_png_files_equal_the_cohort(tmp_path: Path) -> None:
    phantoms = Phantoms(sites=4, images_per_site=6)
    table = read_table(phantoms.write(tmp_path / "new" / "folder", size=(32, 40)))
    assert list(table[0]) == ["image", "site", "split", "label", "mask", "patient"]
    sites, patients = phantoms.cohort((32, 40)).sites.values(), []
    rows = iter(table)
    for site in sites:
        assert site.masks is not None
        for i in range(6):
            row = next(rows)
            image = np.array(Image.open(tmp_path / "new" / "folder" / row["image"]))
            assert image.dtype == np.uint16
            scaled = Percentiles()(image[None].astype(np.float32))
            one_level = 2 / np.ptp(image.astype(np.float32))
            assert np.abs(scaled - site.pixels[i].astype(np.float32)).mean() < one_level + 1e-3
            mask = np.array(Image.open(tmp_path / "new" / "folder" / row["mask"]))
            assert np.array_equal(mask, site.masks[i])
            assert (row["site"], row["split"]) == (site.site, site.splits[i])
            assert row["label"] == FINDINGS[int(site.labels[i])]
            patients.append((row["patient"], int(site.patients[i])))
    assert next(rows, None) is None
    assert len(set(patients)) == len({p for p, _ in patients}) == 12


def test_nifti_files_have_raw_intensities_and_millimetres(tmp_path: Path) -> None:
    phantoms = Phantoms(sites=2, images_per_site=3, spatial_dims=3)
    table = iter(read_table(phantoms.write(tmp_path, size=16)))
    for scans in phantoms.scans(16):
        for raw, mask in zip(scans.raw, scans.masks, strict=True):
            row = next(table)
            volume = nibabel.load(tmp_path / row["image"])
            assert np.array_equal(np.asarray(volume.dataobj), raw.numpy())
            assert volume.header.get_zooms() == (FIELD_OF_VIEW_MM / 16,) * 3
            assert np.array_equal(np.asarray(nibabel.load(tmp_path / row["mask"]).dataobj), mask.numpy())


def test_written_files_load_as_an_equal_cohort(tmp_path: Path) -> None:
    phantoms = Phantoms(sites=2, images_per_site=5, spatial_dims=3)
    manifest = phantoms.write(tmp_path / "files", size=16)
    built_in = Data(phantom=phantoms, size=16).load()
    loaded = Data(manifest=str(manifest), size=16, cache=tmp_path / "cache").load()
    assert loaded.classes == built_in.classes
    for name, site in loaded.sites.items():
        twin = built_in.sites[name]
        assert np.array_equal(site.pixels, twin.pixels)
        assert site.masks is not None
        assert twin.masks is not None
        assert np.array_equal(site.masks, twin.masks)
        assert torch.equal(site.labels, twin.labels)
        assert np.array_equal(site.splits, twin.splits)
        assert np.array_equal(site.rows, twin.rows)


def test_raw_scales_differ_at_least_five_hundredfold() -> None:
    brightest = [scans.raw.max() for scans in Phantoms(images_per_site=4).scans(32)]
    assert max(brightest) / min(brightest) > 500


def test_a_full_disk_leaves_no_incomplete_file_and_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, count = Path.open, iter(range(99))

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        if next(count) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"the disk is full: .*00002_mask\.png needs"):
        Phantoms(sites=2, images_per_site=4).write(tmp_path, size=16)
    monkeypatch.undo()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 5
    for path in written:
        Image.open(path).load()


def test_too_large_a_size_is_an_error_before_images_are_made() -> None:
    with pytest.raises(InputError, match="size must give at most"):
        next(Phantoms(images_per_site=4).scans(10**6))
    with pytest.raises(
        InputError, match=r"1000000 images of 10000 x 10000 would take [\d,]+ GB of memory, this machine"
    ):
        next(Phantoms(images_per_site=10**6).scans(10**4))
