from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fedcore.cli.main import main
from fedcore.data.io.masks import read_mask
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError, Refused
from fedtune.evaluation.native_grid import NativeFiles, require_files
from fedtune.evaluation.segmentation_metrics import image_metrics, score_sites, sum_by_patient
from fedtune.prediction.predict import predict
from tests.fedcore.data.preprocess.test_slices import hospital

SMALL = ["segment", "--network.init_args.encoder.init_args.stem", "8", "--rounds.count", "1", "--visit.max_steps", "2",
         "--native_grid", "true", "--policy.min_patients", "1"]  # fmt: skip


def scores(manifest: Path, run: Path, *more: str) -> dict:
    with pytest.raises(SystemExit) as done:
        main([*SMALL, "--data.manifest", str(manifest), "--data.cache", str(run.parent / "cache"), "--out", str(run),
              *more])  # fmt: skip
    assert done.value.code == 0
    return json.loads((run / "scores.json").read_text())


def held_out(manifest: Path) -> Iterator[tuple[str, Path, Path]]:
    with manifest.open() as file:
        for row in csv.DictReader(file):
            if row["split"] == "test":
                yield row["site"], manifest.parent / row["image"], manifest.parent / row["mask"]


def of_predictions(manifest: Path, run: Path, out: Path, mm: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """What is scored in masks that were predicted and written image by image, and read again."""
    found: dict[str, list[torch.Tensor]] = {}
    num_classes = json.loads((run / "run.json").read_text())["mask_classes"]
    for at, (site, image, mask) in enumerate(held_out(manifest)):
        predict(run, image, out / str(at))
        (written,) = (out / str(at) / "masks").iterdir()
        predicted, truth = (torch.from_numpy(read_mask(path)).long() for path in (written, mask))
        found.setdefault(site, []).append(image_metrics(predicted, truth, mm, num_classes, 1.0))
    return {
        site: {name: score.value for name, score in score_sites([sum_by_patient(torch.stack(each),
                                                                           torch.arange(len(each)))]).items()}
        for site, each in found.items()
    }  # fmt: skip


def require_equal(content: dict, expected: dict[str, dict[str, float]]) -> None:
    assert content["grid"] == "files"
    for site, values in expected.items():
        for name, value in values.items():
            found = content["sites"][site][name]["value"]
            assert (found is None and np.isnan(value)) or found == pytest.approx(value, abs=1e-5)


def test_scores_of_pictures_equal_those_of_their_predicted_masks(tmp_path: Path) -> None:
    manifest = Phantoms(sites=2, images_per_site=24).write(tmp_path / "pictures", 48)
    content = scores(manifest, tmp_path / "run", "--data.size", "32")
    require_equal(content, of_predictions(manifest, tmp_path / "run", tmp_path / "out", (1.0, 1.0)))
    assert content["distance_unit"] == "pixels"


GROUPED = ("--network.init_args.encoder.init_args.norm", "group")


@pytest.mark.parametrize("more", [("--data.slices", "2"), GROUPED], ids=["cut", "whole"])
def test_volumes_are_scored_as_a_whole_and_in_mm(tmp_path: Path, more: tuple[str, ...]) -> None:
    hospital(tmp_path)
    for path in tmp_path.glob("*.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(path).dataobj), np.diag([0.5, 2, 3, 1])), path)
    content = scores(tmp_path / "manifest.csv", tmp_path / "run", "--data.size", "16", *more)
    expected = of_predictions(tmp_path / "manifest.csv", tmp_path / "run", tmp_path / "out", (0.5, 2.0, 3.0))
    require_equal(content, expected)
    assert content["distance_unit"] == "mm"
    assert {site: row["images"] for site, row in content["sites"].items()} == {"a": 1, "b": 1}


def test_both_grids_are_equal_without_resizing(tmp_path: Path) -> None:
    manifest = Phantoms(sites=2, images_per_site=24).write(tmp_path / "pictures", 32)
    native = scores(manifest, tmp_path / "native", "--data.size", "32")
    fitted = scores(manifest, tmp_path / "fitted", "--data.size", "32", "--native_grid", "false")
    assert (native.pop("grid"), fitted.pop("grid")) == ("files", "32 x 32")
    assert native == fitted


@pytest.mark.slow
def test_evaluate_on_the_native_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Phantoms(sites=2, images_per_site=24).write(tmp_path / "pictures", 48)
    fitted = scores(manifest, tmp_path / "run", "--data.size", "32", "--native_grid", "false")
    capsys.readouterr()
    assert fitted["grid"] == "32 x 32"
    with pytest.raises(SystemExit) as done:
        main(["evaluate", str(tmp_path / "run"), "--native_grid", "true"])
    out = capsys.readouterr().out
    assert done.value.code == 0
    assert "HD95 (pixels)" in out
    assert "measured on the grid of the files" in out
    expected = of_predictions(manifest, tmp_path / "run", tmp_path / "out", (1.0, 1.0))
    for values in expected.values():
        assert f"{values['dice']:.3f}" in out


def test_images_without_files_are_an_error_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="simulated hospitals have none"):
        require_files(Data(size=32), Data(size=32).load())
    manifests = [Phantoms(sites=1, images_per_site=8, seed=s).write(tmp_path / str(s), 32) for s in (0, 1)]
    manifests[1].write_text(manifests[1].read_text().replace(",hospital_1,", ",elsewhere,"))
    data = Data(
        str(manifests[0]), size=32, cache=tmp_path / "cache", extra_manifests=(str(manifests[1]),), allow_unaudited=True
    )
    with pytest.raises(InputError, match=r"data\.extra_manifests has some of 'elsewhere'"):
        require_files(data, data.load())


def test_a_file_that_became_unreadable_is_named_by_its_row(tmp_path: Path) -> None:
    manifest = Phantoms(sites=1, images_per_site=8).write(tmp_path, 32)
    data = Data(str(manifest), size=32, cache=tmp_path / "cache")
    files, test = NativeFiles.of(data, (32, 32), 1), data.load().split("test")["hospital_1"]
    assert test.rows is not None
    files.rows[int(test.rows[0])].image.write_bytes(b"no picture")
    with pytest.raises(Refused, match=f"the image of row {test.rows[0]} or its mask cannot be read") as error:
        files.mask_pair(torch.nn.Conv2d(1, 2, 1), test, 0)
    assert str(tmp_path) not in str(error.value)
