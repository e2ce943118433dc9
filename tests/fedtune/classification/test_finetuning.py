from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from fedcore.data.labels import labelled_subset
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.data.synthetic.synthetic_set import Synthetic
from fedcore.errors import InputError, InputErrors
from fedcore.messages.reveals import Reveals
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.report.read.reader import read_run
from fedcore.runs.classifiers import MODEL, save_classifier
from fedcore.runs.classifiers import trained as with_weights
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedcore.transport.simulation import agreed
from fedtune.classification.build import build_classifier
from fedtune.classification.classifier import Classifier
from fedtune.classification.finetuning import finetune
from fedtune.classification.losses import BinaryCrossEntropy
from tests.fedcore.federating import same

DATA = Data(size=32, phantom=Phantoms(sites=2, images_per_site=48))
ENCODER = partial(ResNet, depth=10, stem=8)
WIDTH, CLASSES = 64, 4


def ran(folder: Path, data: Data = DATA, **more: Any) -> RunFolder:
    run, visit = RunFolder(folder), Visit(batch_size=8, accelerator="cpu")
    more = {"encoder": ENCODER, "rounds": Rounds(2), "loggers": (), "policy": Policy(min_patients=1), **more}
    finetune(run, data=data, visit=visit, **more)
    return run


def trained(run: RunFolder) -> dict[str, Tensor]:
    return safetensors.torch.load_file(run.path / MODEL)


def scores(run: RunFolder) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.path / "scores.json").read_text())
    return content


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A run's folder with an encoder whose batch norms have seen images."""
    torch.manual_seed(1)  # not the run's own, which would make the same random weights
    encoder = ENCODER(2, 1)
    encoder(torch.randn(8, 1, 32, 32) * 2 + 1)
    save_encoder(tmp_path / "pretrained" / "encoder", encoder, {}, "card")
    return tmp_path / "pretrained"


def encoder_of(pretrained: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(pretrained / "encoder" / "encoder.safetensors")


def test_a_run_from_random_weights_is_reproducible_bit_by_bit(tmp_path: Path) -> None:
    first, second = ran(tmp_path / "a"), ran(tmp_path / "b")
    assert first.about()["status"] == "finished"
    assert (first.path / MODEL).read_bytes() == (second.path / MODEL).read_bytes()
    assert scores(first) == scores(second)
    content, about = scores(first), first.about()
    assert content["pretrained"] is None
    assert {site: row["images"] for site, row in content["sites"].items()} == {
        site: n["test"] for site, n in about["sites"].items()
    }
    assert content["pooled"]["images"] == sum(n["test"] for n in about["sites"].values())
    for row in [*content["sites"].values(), content["pooled"]]:
        for name in ("auroc", "balanced_accuracy", "f1"):
            assert 0 <= row[name]["low"] <= row[name]["high"] <= 1


@pytest.mark.parametrize("folder", ["", "encoder"])
def test_a_run_starts_from_a_pretrained_encoder(tmp_path: Path, pretrained: Path, folder: str) -> None:
    module = build_classifier(agreed(DATA.load()), ENCODER, Classifier, 0, pretrained / "encoder")
    assert all(torch.equal(t, module.encoder.state_dict()[k]) for k, t in encoder_of(pretrained).items())
    started = ran(tmp_path / "a", pretrained=str(pretrained / folder))
    at_random = ran(tmp_path / "b")
    assert scores(started)["pretrained"] == str(pretrained / folder)
    read = read_run(started.path).scores
    assert read is not None
    assert (read.pretrained, read.per_patient) == (str(pretrained / folder), False)
    assert not torch.equal(trained(started)["encoder.conv1.weight"], trained(at_random)["encoder.conv1.weight"])
    # Three visits of a few steps at 1e-3 move the weights a little from where they started.
    drift = trained(started)["encoder.conv1.weight"] - encoder_of(pretrained)["conv1.weight"]
    assert 0 < drift.abs().max() < 0.05


def test_a_frozen_encoder_keeps_its_bits_and_is_not_sent(tmp_path: Path, pretrained: Path) -> None:
    run = ran(tmp_path / "run", pretrained=str(pretrained), classifier=partial(Classifier, freeze_encoder=True))
    ours = trained(run)
    assert all(torch.equal(ours[f"encoder.{k}"], t) for k, t in encoder_of(pretrained).items())
    head = 4 * (WIDTH * CLASSES + CLASSES)
    for record in run.rounds():
        assert {(s["up"]["weights"], s["down"]["weights"]) for s in record["sites"].values()} == {(head, head)}
    at_start = build_classifier(agreed(DATA.load()), ENCODER, Classifier, 0, pretrained / "encoder")
    assert not torch.equal(ours["head.weight"], at_start.head.weight)


def test_a_tenth_of_the_labels(tmp_path: Path) -> None:
    run = ran(tmp_path / "run", label_fraction=0.1)
    expected = {site: len(labelled_subset(images, 0.1, seed=0)) for site, images in DATA.load().split("train").items()}
    assert run.about()["labelled_images"] == expected
    assert all(n < run.about()["sites"][site]["train"] for site, n in expected.items())
    for record in run.rounds():
        assert {site: s["examples"] for site, s in record["sites"].items()} == expected
    assert scores(run)["label_fraction"] == 0.1
    assert scores(run)["pooled"]["images"] == sum(n["test"] for n in run.about()["sites"].values())


def test_an_encoder_of_another_architecture_is_an_error_with_both_names(tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(InputError, match="another architecture") as caught:
        ran(tmp_path / "run", pretrained=str(pretrained), encoder=partial(ResNet, depth=18, stem=16))
    assert "ResNet(spatial_dims=2, channels=1, depth=10, stem=8, norm=batch)" in str(caught.value)
    assert "ResNet(spatial_dims=2, channels=1, depth=18, stem=16, norm=batch)" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_classes_that_are_not_grades_are_errors_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match="'clear' has no number"):
        ran(tmp_path / "run", ordinal=True)
    with pytest.raises(InputError, match="ordinal needs one class per image"):
        ran(tmp_path / "run", ordinal=True, classifier=partial(Classifier, loss=BinaryCrossEntropy()))
    assert not (tmp_path / "run").exists()


def test_invalid_fraction_and_missing_encoder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label_fraction must lie in \(0, 1\], got 0"):
        ran(tmp_path / "run", label_fraction=0.0)
    with pytest.raises(InputError, match="holds no encoder"):
        ran(tmp_path / "run", pretrained=str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_policy_that_forbids_counts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SiteCounts reveals STATISTICS"):
        ran(tmp_path / "run", policy=Policy(Reveals.WEIGHTS, min_patients=1))


def test_missing_damaged_or_other_weights_are_errors(tmp_path: Path) -> None:
    agreement, run = agreed(DATA.load()), RunFolder(tmp_path)
    module = build_classifier(agreement, ENCODER, Classifier, 0)
    fresh = partial(build_classifier, agreement, ENCODER, Classifier, 1)
    with pytest.raises(InputError, match="is missing; give a finished run"):
        with_weights(run, fresh)
    save_classifier(run, module)
    assert same(with_weights(run, fresh).state_dict(), module.state_dict())
    with pytest.raises(InputError, match="another architecture"):
        with_weights(run, partial(build_classifier, agreement, partial(ResNet, depth=10, stem=4), Classifier, 0))
    (tmp_path / MODEL).write_bytes((tmp_path / MODEL).read_bytes()[:-9])
    with pytest.raises(InputError, match="truncated"):
        with_weights(run, fresh)


def test_labels_of_extra_sites_are_all_used(tmp_path: Path) -> None:
    """Written as a hospital of its own, with another name."""
    manifest = Phantoms(sites=1, images_per_site=24, test_fraction=0.0, seed=3).write(tmp_path / "more", 32)
    manifest.write_text(manifest.read_text().replace(",hospital_1,", ",elsewhere,"))
    data = replace(DATA, extra_manifests=(str(manifest),), cache=tmp_path / "cache")
    about = ran(tmp_path / "run", data, label_fraction=0.5).about()
    assert about["labelled_images"]["elsewhere"] == 24
    assert 12 < about["labelled_images"]["hospital_1"] < 24 < about["sites"]["hospital_1"]["train"]
    assert set(scores(RunFolder(tmp_path / "run"))["sites"]) == {"hospital_1", "hospital_2"}


def test_a_synthetic_set_joins_the_batches_and_does_not_count_as_images(tmp_path: Path) -> None:
    """It changes what is learned, and neither a site's labels nor the number of images that it counts for."""
    manifest = Phantoms(sites=1, images_per_site=24, test_fraction=0.0, seed=3).write(tmp_path / "more", 32)
    manifest.write_text(manifest.read_text().replace(",hospital_1,", ",elsewhere,"))
    data = replace(DATA, cache=tmp_path / "cache")
    alone = ran(tmp_path / "alone", data, label_fraction=0.5)
    both = ran(tmp_path / "both", replace(data, synthetic=Synthetic(str(manifest))), label_fraction=0.5)
    assert both.about()["labelled_images"] == alone.about()["labelled_images"]
    examples = [[site["examples"] for r in run.rounds() for site in r["sites"].values()] for run in (alone, both)]
    assert examples[0] == examples[1]
    assert set(scores(both)["sites"]) == {"hospital_1", "hospital_2"}
    assert any(not torch.equal(t, trained(alone)[name]) for name, t in trained(both).items())
