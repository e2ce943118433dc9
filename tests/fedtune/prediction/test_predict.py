from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from fedcore.cli.main import main
from fedcore.data.io.masks import read_mask
from fedcore.data.io.readers import read_image
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.errors import InputError, InputErrors
from fedcore.runs.folder import RunFolder
from fedtune.evaluation.native_grid import predict_logits
from fedtune.prediction.mask_files import strip_extension, write_mask
from fedtune.prediction.predict import TrainedModel, predict
from tests.fedcore.data.io.dicom.files import series

SMALL = {
    "finetune": ["classify", "--encoder.init_args.stem", "8"],
    "segment": ["segment", "--network.init_args.encoder.init_args.stem", "8"],
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("classifier"), "finetune")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("segmenter"), "segment")


def written(folder: Path, stage: str, *more: str) -> Path:
    """A folder with pictures and a run on them, whose recipe says all that is needed."""
    manifest = Phantoms(sites=2, images_per_site=32).write(folder / "pictures", 48)
    with pytest.raises(SystemExit) as done:
        main([stage, *SMALL[stage], "--data.manifest", str(manifest), "--data.size", "32", "--data.cache",
              str(folder / "cache"), "--rounds.count", "1", "--visit.max_steps", "2",
              "--policy.min_patients", "1", "--out", str(folder / "run"), *more])  # fmt: skip
    assert done.value.code == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predictions_of_a_classifier_are_its_probabilities(classifier: Path, tmp_path: Path) -> None:
    rows = table(predict(classifier / "run", classifier / "pictures" / "hospital_1", tmp_path / "out"))
    model = TrainedModel.load(RunFolder(classifier / "run"), None)
    assert list(rows[0]) == ["image", "predicted_class", *model.classes]
    first = rows[0]
    raw = read_image(classifier / "pictures" / "hospital_1" / first["image"])
    ((_, logits),) = predict_logits(model.network, model.decoding, raw)
    expected = logits.softmax(0)
    assert [float(first[name]) for name in model.classes] == pytest.approx(expected.tolist(), abs=1e-4)
    assert first["predicted_class"] == model.classes[int(expected.argmax())]


def test_a_mask_has_the_size_of_its_image(segmenter: Path, tmp_path: Path) -> None:
    image = segmenter / "pictures" / "hospital_1" / "00003.png"
    (row,) = table(predict(segmenter / "run", image, tmp_path / "out"))
    mask = read_mask(tmp_path / "out" / row["mask"])
    assert mask.shape == (48, 48)
    model = TrainedModel.load(RunFolder(segmenter / "run"), None)
    ((_, answer),) = predict_logits(model.network, model.decoding, read_image(image))
    logits = torch.nn.functional.interpolate(answer[None], (48, 48), mode="bilinear")[0]
    assert np.array_equal(mask, logits.argmax(0).numpy())
    counts = [int((mask == k).sum()) for k in range(1, model.mask_classes)]
    assert [int(row[f"pixels_{k}"]) for k in range(1, model.mask_classes)] == counts


@pytest.mark.parametrize("axes", [np.diag([1.0, 1, 1]), np.array([[0, -0.5, 0], [0, 0, 2.0], [3.0, 0, 0]])])
def test_a_nifti_mask_has_the_affine_of_its_image(tmp_path: Path, axes: np.ndarray) -> None:
    """What was marked as the reader turned the volume is read again from the written mask in the same place."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, (5, -3, 2)
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    path = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    seen = (read_image(path)[0] > 0.5).astype(np.uint8)
    mask = write_mask(tmp_path / "masks", path, seen)
    assert mask.name == "image.nii.gz"
    stored = nibabel.load(mask)
    assert np.array_equal(np.asarray(stored.dataobj), values > 0.5)
    assert np.allclose(stored.affine, affine)
    assert np.array_equal(read_mask(mask), seen)


def test_only_known_extensions_are_stripped() -> None:
    assert [strip_extension(n) for n in ("a.nii.gz", "b.PNG", "1.2.840.113619", "c")] == [
        "a",
        "b",
        "1.2.840.113619",
        "c",
    ]


def test_unreadable_images_are_in_one_error_or_skipped(classifier: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no picture")
    np.save(folder / "volume.npy", np.random.default_rng(0).random((8, 9, 10)))
    (folder / "fine.png").write_bytes((classifier / "pictures" / "hospital_1" / "00001.png").read_bytes())
    with pytest.raises(
        InputErrors, match=r"broken\.png[\s\S]*volume.npy: the image is 3D, and the model takes 2D images"
    ):
        predict(classifier / "run", folder, tmp_path / "out")
    skipped = predict(classifier / "run", folder, tmp_path / "skipped", on_error="skip")
    assert [row["image"] for row in table(skipped)] == ["fine.png"]
    assert skipped.read_bytes() == (tmp_path / "out" / "predictions.csv").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        predict(classifier / "run", folder, tmp_path / "out")


def test_equal_and_longest_names_have_one_mask_each(segmenter: Path, tmp_path: Path) -> None:
    pictures = sorted((segmenter / "pictures" / "hospital_1").iterdir())
    (folder := tmp_path / "images").mkdir()
    names = ["a.png", "a.bmp", "A.png", "con.png", "x" * 246 + ".png", "x" * 245 + "y.png"]
    for name, picture in zip(names, pictures, strict=False):
        with Image.open(picture) as opened:
            opened.save(folder / name)
    rows = {row["image"]: row for row in table(predict(segmenter / "run", folder, tmp_path / "out"))}
    assert rows.keys() == set(names)
    assert len({row["mask"].lower() for row in rows.values()}) == len(names)
    for name in names:
        (row,) = table(predict(segmenter / "run", folder / name, tmp_path / f"alone_{names.index(name)}"))
        alone = read_mask(tmp_path / f"alone_{names.index(name)}" / row["mask"])
        assert np.array_equal(read_mask(tmp_path / "out" / rows[name]["mask"]), alone), name


def test_what_was_predicted_before_a_failure_is_kept(
    segmenter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(segmenter / "run", segmenter / "pictures" / "hospital_1", tmp_path / "whole")
    rows, count = TrainedModel.rows, iter(range(9))

    def stopped(*arguments: Any) -> list[list[str]]:
        if next(count) == 3:
            raise MemoryError
        return rows(*arguments)

    monkeypatch.setattr(TrainedModel, "rows", stopped)
    with pytest.raises(MemoryError):
        predict(segmenter / "run", segmenter / "pictures" / "hospital_1", tmp_path / "out")
    assert (tmp_path / "out" / "predictions.csv").read_text() == "".join(whole.read_text().splitlines(True)[:4])
    for row in table(tmp_path / "out" / "predictions.csv"):
        assert (tmp_path / "out" / row["mask"]).read_bytes() == (tmp_path / "whole" / row["mask"]).read_bytes()


def test_personal_models_need_a_site(tmp_path: Path, classifier: Path) -> None:
    alone = written(tmp_path / "alone", "finetune", "--algorithm", "fedcore.algorithms.local_only.LocalOnly") / "run"
    with pytest.raises(InputError, match="each site has its own model; choose one with --site hospital_1"):
        predict(alone, classifier / "pictures" / "hospital_1", tmp_path / "out")
    assert table(predict(alone, classifier / "pictures" / "hospital_1", tmp_path / "out", site="hospital_2"))
    cards = [(run / "classifier" / "README.md").read_text() for run in (alone, classifier / "run")]
    assert ["OUT --site hospital_1" in text and "scored with its own model" in text for text in cards] == [True, False]
    with pytest.raises(InputError, match="all sites share one model; remove --site"):
        predict(classifier / "run", classifier / "pictures" / "hospital_1", tmp_path / "new", site="hospital_1")
    with pytest.raises(InputError, match="finished finetune or segment run"):
        predict(tmp_path, classifier / "pictures" / "hospital_1", tmp_path / "new")


def test_dicom_files_of_a_folder_are_pictures_for_a_2d_model(classifier: Path, tmp_path: Path) -> None:
    found = table(predict(classifier / "run", series(tmp_path / "s", [0, 1]), tmp_path / "out"))
    assert [row["image"] for row in found] == ["0.dcm", "1.dcm"]


def test_a_nifti_of_one_slice_is_a_picture(classifier: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).random((9, 10, 1)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(picture, np.diag([2.0, 1, 5, 1])), tmp_path / "slice.nii")
    (row,) = table(predict(classifier / "run", tmp_path / "slice.nii", tmp_path / "out"))
    assert row["image"] == "slice.nii"
