"""Rows of a manifest that name an .npz in MedMNIST's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.data.io import npz
from fedcore.data.manifest.manifest import read_manifest
from tests.fedcore.data.manifest.test_manifest import errors_of, written


@pytest.fixture
def medmnist(tmp_path: Path) -> Path:
    arrays = {
        f"{split}_{kind}": array
        for split, n in (("train", 3), ("val", 1), ("test", 2))
        for kind, array in (
            ("images", np.arange(n * 20, dtype=np.uint8).reshape(n, 4, 5)),
            ("labels", np.arange(n)[:, None]),
        )
    }
    np.savez_compressed(tmp_path / "blood.npz", **arrays)
    return tmp_path


def test_an_npz_becomes_one_row_per_image(medmnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "item", None)  # the images themselves must not be read
    found = read_manifest(written(medmnist, "image,site\nblood.npz,lab\n"))
    assert [row.split for row in found.rows] == ["train"] * 3 + ["val"] + ["test"] * 2
    assert [row.label for row in found.rows] == ["0", "1", "2", "0", "0", "1"]
    assert (found.rows[2].member, found.rows[2].index) == ("train_images", 2)
    assert found.rows[2].patient == "lab/blood.npz#train_images[2]"
    assert (found.has_split, found.classes) == (True, ("0", "1", "2"))


def test_of_an_npz_one_split_can_be_used(medmnist: Path) -> None:
    found = read_manifest(written(medmnist, "image,site,split\nblood.npz,a,train\nblood.npz,b,test\n"))
    assert [(row.site, row.split) for row in found.rows] == [("a", "train")] * 3 + [("b", "test")] * 2


def test_errors_of_an_npz_have_their_row(medmnist: Path) -> None:
    np.savez(medmnist / "other.npz", pixels=np.zeros(3))
    np.savez(medmnist / "uneven.npz", train_images=np.zeros((3, 2, 2)), train_labels=np.zeros((2, 1)))
    np.savez(medmnist / "objects.npz", train_images=np.array([None, "x"]), allow_pickle=True)
    text = "image,site\nother.npz,n\nuneven.npz,n\na.npz,n\nobjects.npz,n\nblood.npz,n\nblood.npz,m\n"
    errors = errors_of(written(medmnist, text, files="a.npz"))
    assert "row 2: other.npz: no train_images" in errors
    assert "row 3: uneven.npz: 3 train_images, but 2 train_labels" in errors
    assert "row 4: a.npz: File is not a zip file" in errors
    assert "row 5: objects.npz: arrays of Python objects are not read" in errors
    assert errors.count("row 7: the same image as row 6") == 1


def test_an_npz_with_labels_in_the_manifest_is_an_error(medmnist: Path) -> None:
    text = "image,site,label,patient\nblood.npz,n,x,p\n"
    assert "leave label, patient empty" in errors_of(written(medmnist, text))


def test_files_of_one_name_in_two_folders_are_different_patients(medmnist: Path) -> None:
    for name, split in (("x", "train"), ("y", "test")):
        (medmnist / name).mkdir()
        np.savez(medmnist / name / "a.npz", **{f"{split}_images": np.zeros((2, 4, 4))})
    found = read_manifest(written(medmnist, "image,site\nx/a.npz,n\ny/a.npz,n\n"))
    assert len({row.patient for row in found.rows}) == 4
