"""Missing labels, classes without training images, partly labelled sites."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors
from fedtune.classification.classifier import Classifier
from fedtune.classification.losses import BinaryCrossEntropy
from tests.fedtune.classification.test_finetuning import ran, scores

FULL = "image,site,patient,split,label"


def hospital(folder: Path, columns: str, classes: str = "ab", unlabelled: str = "") -> Data:
    """Two sites of six patients with an image each, the last two for testing."""
    rng, lines = np.random.default_rng(0), [columns]
    for at in range(12):
        np.save(folder / f"{at}.npy", rng.random((32, 32)).astype(np.float32))
        split = "test" if at % 6 > 3 else "train"
        label = "" if split == unlabelled else classes[at % len(classes)]
        row = {"image": f"{at}.npy", "site": f"s{at // 6}", "patient": f"p{at}", "split": split, "label": label}
        lines.append(",".join(row[name] for name in columns.split(",")))
    (folder / "manifest.csv").write_text("\n".join(lines))
    return Data(manifest=str(folder / "manifest.csv"), size=32)


@pytest.mark.parametrize(
    ("columns", "classes", "unlabelled", "text"),
    [
        ("image,site,patient,split", "ab", "", "at least 2 classes|no site has a labelled training image"),
        (FULL, "a", "", "at least 2 classes, the images have .*a"),
        (FULL, "ab", "train", "no site has a labelled training image"),
        (FULL, "ab", "test", "no site has labelled test images"),
    ],
    ids=["no labels", "one class", "no training labels", "no test labels"],
)
def test_missing_labels_are_errors_before_training(
    tmp_path: Path, columns: str, classes: str, unlabelled: str, text: str
) -> None:
    with pytest.raises(InputError, match=text):
        ran(tmp_path / "run", hospital(tmp_path, columns, classes, unlabelled))
    assert not (tmp_path / "run").exists()


def test_a_class_that_only_test_images_have_is_an_error(tmp_path: Path) -> None:
    data = hospital(tmp_path, FULL)
    manifest = tmp_path / "manifest.csv"
    lines = manifest.read_text().splitlines()
    lines[5] = lines[5].rsplit(",", 1)[0] + ",c"
    manifest.write_text("\n".join(lines))
    with pytest.raises(
        InputErrors, match=r"site 's0': class 'c' in its test images\nThe only classes of training images: a, b"
    ):
        ran(tmp_path / "run", data)
    assert not (tmp_path / "run").exists()
    findings = partial(Classifier, loss=BinaryCrossEntropy())
    with pytest.raises(
        InputErrors, match=r"site 's0': class 'c' in its test images\nThe only classes of training images: a, b"
    ):
        ran(tmp_path / "run", data, classifier=findings)


def test_partly_labelled_sites_train_on_what_is_labelled(tmp_path: Path) -> None:
    data = hospital(tmp_path, FULL)
    manifest = tmp_path / "manifest.csv"
    lines = manifest.read_text().splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + ","
    lines[7:] = [line.rsplit(",", 1)[0] + "," for line in lines[7:]]  # the second site has no label at all
    manifest.write_text("\n".join(lines))
    run = ran(tmp_path / "run", data)
    assert run.about()["labelled_images"] == {"s0": 3}
    assert scores(run)["sites"].keys() == {"s0"}


def test_kappa_is_reported_only_with_ordinal(tmp_path: Path) -> None:
    data = hospital(tmp_path, FULL, "01")
    plain, ranked = (ran(tmp_path / str(ordinal), data, ordinal=ordinal) for ordinal in (False, True))
    kappas = {"kappa_linear", "kappa_quadratic"}
    assert kappas.isdisjoint(scores(plain)["pooled"])
    assert kappas <= scores(ranked)["pooled"].keys()
    assert scores(plain)["pooled"] == {k: v for k, v in scores(ranked)["pooled"].items() if k not in kappas}
