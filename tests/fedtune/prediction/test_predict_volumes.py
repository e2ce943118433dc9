"""Predictions of volumes by models of slices."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fedcore.cli.main import main
from fedcore.data.io.masks import read_mask
from fedcore.data.io.readers import read_image
from fedcore.data.preprocess.geometry import fit, unfit
from fedcore.data.preprocess.scaling import Percentiles
from fedcore.errors import InputErrors
from fedcore.runs.folder import RunFolder
from fedtune.prediction.predict import TrainedModel, predict
from tests.fedcore.data.io.dicom.files import series
from tests.fedcore.data.preprocess.test_slices import hospital
from tests.fedtune.prediction.test_predict import SMALL, table


@pytest.fixture(scope="module", params=["finetune", "segment"])
def sliced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The stage, and a run on volumes cut along their last axis."""
    folder = tmp_path_factory.mktemp(request.param)
    hospital(folder)
    with pytest.raises(SystemExit) as done:
        main([request.param, *SMALL[request.param], "--data.manifest", str(folder / "manifest.csv"), "--data.size",
              "16", "--data.slices", "2", "--label_fraction", "1", "--rounds.count", "1", "--visit.max_steps", "2",
              "--policy.min_patients", "1", "--out", str(folder / "run")])  # fmt: skip
    assert done.value.code == 0
    return request.param, folder / "run"


def volume(path: Path) -> Path:
    """6 x 7 x 8 voxels as read, 0.5 x 2 x 3 mm large, stored in another order; the first two slices are air."""
    values = np.random.default_rng(5).random((6, 7, 8)).astype(np.float32)
    values[..., :2] = 0
    turned = np.array([[0, -0.5, 0], [0, 0, 2.0], [3.0, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned, (5, -3, 2)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(values.transpose(2, 0, 1)[:, ::-1]), affine), path)
    assert np.array_equal(read_image(path)[0], values)
    return path


def by_hand(model: TrainedModel, file: Path) -> dict[int, torch.Tensor]:
    """Logits of each slice that shows anything; an axis is fitted by its mm and padded with air, as the first slice."""
    scaled = Percentiles()(read_image(file))
    shown = scaled[:, ::-1, ::-1].swapaxes(1, 2)  # front on top, the patient's right at the left
    planes = {k: fit(np.concatenate([shown[..., k], shown[..., 0]]), (16, 16), 2, (2.0, 0.5))[:1] for k in range(2, 8)}
    with torch.no_grad():
        return {k: model.network(torch.from_numpy(p.astype(np.float16)).float()[None])[0] for k, p in planes.items()}


def test_a_volume_is_predicted_slice_by_slice(sliced: tuple[str, Path], tmp_path: Path) -> None:
    stage, run = sliced
    file, model = volume(tmp_path / "new.nii.gz"), TrainedModel.load(RunFolder(run), None)
    found, expected = table(predict(run, file, tmp_path / "out")), by_hand(model, file)
    if stage == "finetune":
        assert list(found[0]) == ["image", "slice", "predicted_class", *model.classes]
        assert [(row["image"], int(row["slice"])) for row in found] == [(file.name, k) for k in range(2, 8)]
        for row, logits in zip(found, expected.values(), strict=True):
            probabilities = logits.softmax(0).tolist()
            assert [float(row[name]) for name in model.classes] == pytest.approx(probabilities, abs=1e-3)
        return
    (row,) = found
    written, mask = nibabel.load(tmp_path / "out" / row["mask"]), read_mask(tmp_path / "out" / row["mask"])
    assert np.allclose(written.affine, nibabel.load(file).affine)
    assert mask.shape == (6, 7, 8)
    assert not mask[..., :2].any()
    for k, logits in expected.items():
        assert np.array_equal(mask[::-1, ::-1, k].T, unfit(logits, (7, 6), (2.0, 0.5)).argmax(0).numpy())
    assert int(row["voxels_1"]) == (mask == 1).sum()


def test_dicom_volumes_are_folders(sliced: tuple[str, Path], tmp_path: Path) -> None:
    stage, run = sliced
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("1.2.3", "1.2.4"):
        series(folder / name, [2, 0, 1], SeriesInstanceUID=name)
    alone, both = (table(predict(run, path, tmp_path / f"of_{path.name}")) for path in (folder / "1.2.3", folder))
    assert list(dict.fromkeys(row["image"] for row in both)) == ["1.2.3", "1.2.4"]
    assert {row["image"] for row in alone} == {"1.2.3"}
    if stage == "segment":
        assert np.load(tmp_path / "of_study" / both[1]["mask"]).shape == read_image(folder / "1.2.4").shape[1:]


def test_a_constant_volume_and_a_picture_are_errors(sliced: tuple[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    np.save(folder / "air.npy", np.zeros((6, 7, 8)))
    np.save(folder / "picture.npy", np.random.default_rng(0).random((9, 10)))
    with pytest.raises(InputErrors) as error:
        predict(sliced[1], folder, tmp_path / "out")
    assert "air.npy: every slice is constant" in str(error.value)
    assert "picture.npy: the image is 2D, and the model takes 3D images" in str(error.value)
