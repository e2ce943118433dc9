from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser, set_parsing_settings
from PIL import Image

from fedcore.data.manifest.columns import Columns
from fedcore.data.partition import Dirichlet, Quantity
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.preprocess import decode
from fedcore.data.preprocess.scaling import Window
from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors


def hospital(folder: Path, header: str = "image,site,split,label,patient", colour: bool = False) -> Data:
    """Two sites, six patients each with two images of 12 x 10 pixels."""
    lines = [header]
    rng = np.random.default_rng(0)
    for at in range(24):
        scale = 1 if at < 12 else 1000  # the second site's scanner has other units
        array = (rng.random((12, 10, 3) if colour else (12, 10)) * scale).astype(np.float32)
        np.save(folder / f"{at}.npy", array)
        record = {
            "image": f"{at}.npy",
            "site": "site_10" if at < 12 else "site_9",
            "split": "test" if at % 6 < 2 else "train",
            "label": "ab"[at % 2] if at % 4 else "",
            "patient": f"p{at // 2}",
        }
        lines.append(",".join(record[name] for name in header.split(",")))
    (folder / "manifest.csv").write_text("\n".join(lines))
    return Data(manifest=str(folder / "manifest.csv"), size=8, cache=folder / "cache")


def test_all_sites_are_loaded(tmp_path: Path) -> None:
    cohort = hospital(tmp_path).load()
    assert list(cohort.sites) == ["site_9", "site_10"]
    assert (cohort.channels, cohort.size, cohort.spatial_dims) == (1, (8, 8), 2)
    assert (cohort.classes, cohort.warnings, cohort.skipped) == (("a", "b"), (), ())
    north = cohort.sites["site_10"]
    assert north.labels.tolist() == [-1, 1, 0, 1] * 3
    assert north.rows.tolist() == list(range(2, 14))
    assert north.patients.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert len(north.select("test")) == 4


def test_volumes_without_spacing_among_others_have_a_warning(tmp_path: Path) -> None:
    lines = ["image,site,split,patient"]
    for at in range(8):
        affine = None if at in (1, 2) else np.diag([1, 1, 3, 1])
        array = np.random.default_rng(at).random((6, 7, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{at}.nii.gz")
        lines.append(f"{at}.nii.gz,{'ab'[at % 2]},train,p{at}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    data = Data(manifest=str(tmp_path / "manifest.csv"), size=8, cache=tmp_path / "cache")
    warnings = data.load().warnings
    assert [text[:18] for text in warnings] == ["site 'a': 1 of 4 i", "site 'b': 1 of 4 i"]
    (tmp_path / "manifest.csv").write_text("\n".join([lines[0], lines[2], lines[3]]))
    assert not data.load().warnings  # none has a spacing, so they are not mixed


def test_sites_can_be_chosen(tmp_path: Path) -> None:
    data = replace(hospital(tmp_path), sites=("site_9",))
    cohort = data.load()
    assert list(cohort.sites) == ["site_9"]
    assert len(cohort.sites["site_9"]) == 12
    with pytest.raises(
        InputErrors, match=r"unknown site 'site9' \(did you mean 'site_9'\?\)[\s\S]*has site_9, site_10"
    ):
        replace(data, sites=("site9",)).load()


def test_classes_are_those_of_the_chosen_sites(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    manifest = tmp_path / "manifest.csv"
    lines = manifest.read_text().splitlines()
    changed = [line.replace(",b,", ",a,") if ",site_9," in line else line for line in lines]
    manifest.write_text("\n".join(changed))
    assert data.load().classes == ("a", "b")
    assert replace(data, sites=("site_9",)).load().classes == ("a",)


def test_sites_of_different_scales_have_equal_statistics(tmp_path: Path) -> None:
    one, thousand = (images.batch(range(12)) for images in hospital(tmp_path).load().sites.values())
    assert one.std() == pytest.approx(thousand.std().item(), rel=0.1)
    assert one.mean() == pytest.approx(thousand.mean().item(), abs=0.1)


def test_a_second_load_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hospital(tmp_path)
    first = data.load()
    monkeypatch.setattr("fedcore.data.dimensions.read_image", None)
    monkeypatch.setattr(decode, "read_image", None)
    again = data.load()
    assert all(torch.equal(again.sites[site].batch([3]), images.batch([3])) for site, images in first.sites.items())


def test_channels_are_found(tmp_path: Path) -> None:
    data = hospital(tmp_path, colour=True)
    assert data.load().channels == 3
    assert Data(data.manifest, size=8, cache=data.cache, channels=1).load().channels == 1
    picture = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).convert("RGB")
    picture.save(tmp_path / "picture.png")
    (tmp_path / "manifest.csv").write_text("image,site\npicture.png,s\n")
    assert data.load().channels == 1


@pytest.mark.parametrize("channels", [0, 2, -1])
def test_other_numbers_of_channels_are_an_error(tmp_path: Path, channels: int) -> None:
    data = hospital(tmp_path)
    with pytest.raises(InputError, match=rf"channels must be 1, 3 or null .* got {channels}"):
        Data(data.manifest, size=8, cache=data.cache, channels=channels).load()


def test_2d_and_3d_images_in_one_manifest_are_an_error(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((5, 6, 7)), np.eye(4)), tmp_path / "v.nii.gz")
    path = tmp_path / "manifest.csv"
    whole = path.read_text()
    path.write_text(f"{whole}\nv.nii.gz,volumes,train,a,v")
    with pytest.raises(InputErrors, match="site 'volumes' has 3D images"):
        data.load()
    path.write_text(f"{whole}\nv.nii.gz,site_9,train,a,v")
    with pytest.raises(InputErrors, match=r"row 26, v.nii.gz: a 3D image among 2D ones"):
        data.load()
    path.write_text("image,site,split\nv.nii.gz,volumes,train")
    assert Data(str(path), size=(4, 5, 6), cache=data.cache).load().size == (4, 5, 6)


def test_skipped_images_are_listed(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    for at in range(12):  # the whole of site_10 but for its last image
        if at != 11:
            (tmp_path / f"{at}.npy").write_bytes(b"damaged")
    np.save(tmp_path / "11.npy", np.ones((12, 10)))
    with pytest.raises(InputErrors, match="images: 11 errors"):
        data.load()
    cohort = Data(data.manifest, size=8, cache=data.cache, on_error="skip").load()
    assert len(cohort.skipped) == 11
    assert cohort.warnings == ("site 'site_10', row 13: constant image",)
    assert cohort.sites["site_10"].rows.tolist() == [13]
    assert len(cohort.sites["site_9"]) == 12


def test_missing_files_are_skipped_and_listed_without_names(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    (tmp_path / "0.npy").unlink()
    (tmp_path / "13.npy").write_bytes(b"")
    with pytest.raises(InputErrors, match=r"2 errors[\s\S]*row 2: 0\.npy is missing[\s\S]*row 15: 13\.npy is empty"):
        data.load()
    skipping = replace(data, on_error="skip")
    cohort = skipping.load()
    reason = "its image or mask is missing or empty"
    assert cohort.skipped == (f"site 'site_10', row 2: {reason}", f"site 'site_9', row 15: {reason}")
    assert cohort.sites["site_10"].rows.tolist() == list(range(3, 14))
    assert len(replace(skipping, sites=("site_9",)).load().skipped) == 1


def test_a_cohort_has_the_warnings_on_splits(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    manifest = Path(data.manifest)
    np.save(tmp_path / "v.npy", np.random.default_rng(9).random((12, 10)))
    manifest.write_text(f"{manifest.read_text()}\nv.npy,site_9,val,c,pv")
    assert [text.split(" ")[0] for text in data.load().warnings] == ["split", "class"]


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    data = hospital(tmp_path)
    for at in range(24):
        (tmp_path / f"{at}.npy").write_bytes(b"damaged")
    with pytest.raises(InputErrors, match="none of its images can be read"):
        Data(data.manifest, cache=data.cache, on_error="skip").load()


def test_medmnist_is_loaded(tmp_path: Path) -> None:
    images = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    np.savez_compressed(tmp_path / "m.npz", train_images=images, train_labels=[[1], [0], [1]], test_images=images[:1])
    (tmp_path / "manifest.csv").write_text("image,site\nm.npz,lab\n")
    lab = Data(str(tmp_path / "manifest.csv"), size=8, cache=tmp_path / "cache").load().sites["lab"]
    assert lab.labels.tolist() == [1, 0, 1, -1]
    assert lab.splits.tolist() == ["train"] * 3 + ["test"]
    assert torch.equal(lab.batch([0]), lab.batch([3]))


def test_settings_of_manifests_are_an_error_with_simulated_hospitals() -> None:
    with pytest.raises(InputError, match=r"data\.partition and data\.channels must be omitted"):
        Data(partition=Quantity(sites=2), channels=3).load()
    with pytest.raises(InputError, match=r"data\.sites must .* fedpretrain data phantom FOLDER"):
        Data(sites=("hospital_1",)).load()
    assert Data(size=16, channels=1, phantom=Phantoms(sites=1, images_per_site=8)).load().channels == 1


def test_simulated_hospitals_are_the_default() -> None:
    cohort = Data(size=16, phantom=Phantoms(sites=2, images_per_site=8)).load()
    assert (len(cohort.sites), cohort.size) == (2, (16, 16))


def recipe(*arguments: str) -> Data:
    def run(data: Data = Data()) -> None:
        raise AssertionError("only parsed")

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(run)
    assert "Pixels per side" in parser.format_help()  # the fields' docstrings explain them
    return parser.instantiate(parser.parse_args(list(arguments))).data


def test_options_are_parsed() -> None:
    assert recipe("--data.manifest", "x.csv", "--data.size", "48") == Data(manifest="x.csv", size=48)
    assert recipe("--data.size", "[48,56,48]").size == (48, 56, 48)
    window = ["--data.scaling.class_path", "fedcore.data.preprocess.scaling.Window"]
    ends = ["--data.scaling.init_args.low", "-1000", "--data.scaling.init_args.high", "400"]
    assert recipe(*window, *ends).scaling == Window(-1000.0, 400.0)
    skew = recipe("--data.partition", "fedcore.data.partition.Dirichlet", "--data.partition.alpha", "0.1")
    assert skew.partition == Dirichlet(alpha=0.1)
    assert recipe("--data.phantom.sites", "7").phantom.sites == 7
    assert recipe("--data.columns.image", "path").columns == Columns(image="path")
    assert recipe("--data.columns", '{"image": "path", "site": "clinic"}').columns == Columns("path", "clinic")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["brain_tumor_mri", "cxr_covid_multisite", "nuclei_dsb2018", "hippocampus3d", "dicom_samples"]
)
def test_real_data_sets_are_loaded(real_data: Path, tmp_path: Path, name: str) -> None:
    manifest = real_data / name / "manifest.csv"
    cohort = Data(str(manifest), size=32, cache=tmp_path).load()
    assert sum(map(len, cohort.sites.values())) == len(manifest.read_text().strip().splitlines()) - 1
    for images in cohort.sites.values():
        batch = images.batch(range(min(8, len(images))))
        assert -1 <= batch.min() < -0.7
        assert 0.5 < batch.max() <= 1
