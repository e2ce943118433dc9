from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.data.manifest.columns import Columns
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors
from tests.fedcore.data.test_source import hospital


def extra_manifest(folder: Path, site: str = "elsewhere", labels: str = "bc") -> str:
    """Four pictures of another site, without split and patients."""
    folder.mkdir()
    lines = ["image,site,label"]
    for at in range(4):
        np.save(folder / f"{at}.npy", np.random.default_rng(at).random((10, 12)).astype(np.float32))
        lines.append(f"{at}.npy,{site},{labels[at % 2]}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return str(folder / "manifest.csv")


def test_column_names_apply_to_the_main_manifest_only(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    manifest = Path(data.manifest)
    manifest.write_text(manifest.read_text().replace("image,site,split,label", "path,clinic,set,target", 1))
    data = replace(
        data, columns=Columns("path", "clinic", "set", "target"), extra_manifests=(extra_manifest(tmp_path / "more"),)
    )
    cohort = data.load()
    assert (cohort.classes, list(cohort.sites)) == (("a", "b", "c"), ["site_9", "site_10", "elsewhere"])


def test_similar_classes_of_two_manifests_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match="classes 'A' and 'a' seem to be one"):
        replace(hospital(tmp_path), extra_manifests=(extra_manifest(tmp_path / "more", labels="AB"),)).load()


def test_an_extra_manifest_adds_sites_and_does_not_change_the_others(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    alone, both = data.load(), replace(data, extra_manifests=(extra_manifest(tmp_path / "more"),)).load()
    assert list(both.sites) == ["site_9", "site_10", "elsewhere"]
    assert both.classes == ("a", "b", "c")
    assert both.sites["elsewhere"].labels.tolist() == [1, 2, 1, 2]
    assert set(both.sites["elsewhere"].splits) == {"train"}
    assert not {*both.sites["elsewhere"].patients} & {*both.sites["site_9"].patients, *both.sites["site_10"].patients}
    for name, images in alone.sites.items():
        assert torch.equal(both.sites[name].labels, images.labels)
        assert np.array_equal(both.sites[name].patients, images.patients)
        assert torch.equal(both.sites[name].batch(range(12)), images.batch(range(12)))


def test_an_extra_manifest_can_be_added_to_simulated_hospitals(tmp_path: Path) -> None:
    phantoms = Phantoms(sites=2, images_per_site=8)
    data = Data(
        size=16,
        phantom=phantoms,
        extra_manifests=(extra_manifest(tmp_path / "more", labels="zz"),),
        cache=tmp_path / "cache",
    )
    cohort = data.load()
    assert list(cohort.sites) == ["hospital_1", "hospital_2", "elsewhere"]
    assert cohort.classes == (*phantoms.cohort(16).classes, "z")


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    """A class that sorts before the others changes their numbers."""
    cohort = replace(hospital(tmp_path), extra_manifests=(extra_manifest(tmp_path / "more", labels="0a"),)).load()
    assert cohort.classes == ("0", "a", "b")
    assert cohort.sites["site_10"].labels.tolist() == [-1, 2, 1, 2] * 3
    assert cohort.sites["elsewhere"].labels.tolist() == [0, 1, 0, 1]


def test_a_site_in_two_manifests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two manifests have a site 'site_9'; rename one of them"):
        replace(hospital(tmp_path), extra_manifests=(extra_manifest(tmp_path / "more", "site_9"),)).load()
