from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.cli.main import main
from fedcore.data.labels import images_with_mask, labelled_subset, patient_subset
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.unet import UNet
from fedgen.generator_store import load_generator
from fedgen.sampling import sample
from fedgen.training import Generation, _given, train
from tests.stopping import killed_in

narrow = partial(Diffusion, network=partial(UNet, widths=(8, 16)))


def phantoms(size: int = 16, dims: int = 2) -> Data:
    return Data(size=size, phantom=Phantoms(sites=2, images_per_site=8, spatial_dims=dims))


def trained(folder: Path, resume: bool = False, **changes: Any) -> RunFolder:
    run = RunFolder(folder, "seed: 0\n", resume)
    visit = Visit(batch_size=4, accelerator="cpu")
    train(run, **{"generator": narrow, "data": phantoms(), "visit": visit, "rounds": Rounds(2), **changes})
    return run


def stopped_and_resumed(folder: Path, **changes: Any) -> RunFolder:
    """`trained`, killed after its second round was recorded and before it was committed."""
    with killed_in(1):
        trained(folder, **changes)
    return trained(folder, resume=True, **changes)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.path / "generator" / "generator.safetensors")


@pytest.mark.parametrize("dims", [2, 3])
def test_a_run_saves_a_generator_with_its_sites_and_classes(tmp_path: Path, dims: int) -> None:
    run = trained(tmp_path / "run", data=phantoms(dims=dims))
    made = load_generator(run.path / "generator")
    assert made.image_shape.shape == (1, *[16] * dims)
    assert made.conditions.sites == ("hospital_1", "hospital_2")
    assert len(made.conditions.classes) == 4
    about = run.about()
    assert (about["status"], about["command"]) == ("finished", "generate")
    assert {site["reveals"] for turn in run.rounds() for site in turn["sites"].values()} == {"STATISTICS"}  # the loss


def test_a_repeated_or_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, resumed = trained(tmp_path / "whole"), stopped_and_resumed(tmp_path / "run")
    assert weights(resumed).keys() == weights(whole).keys()
    assert all(torch.equal(t, weights(resumed)[k]) for k, t in weights(whole).items())


def test_a_fraction_of_the_labels_and_all_images_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same labels as in `finetune`, by patient; two sites of 12 images, one epoch."""
    fraction, seen, loss = 0.3, [], Diffusion.loss
    data = replace(phantoms(), phantom=Phantoms(sites=2, images_per_site=16))

    def watched(self: Diffusion, images: Any, labels: Any, sites: Any) -> Any:
        seen.extend(zip(images.half().sum((1, 2, 3)).tolist(), labels.tolist(), strict=True))
        return loss(self, images, labels, sites)

    monkeypatch.setattr(Diffusion, "loss", watched)
    run = trained(tmp_path / "run", data=data, label_fraction=fraction, rounds=Rounds(1))
    sites = data.load().split("train")
    given = [labelled_subset(images, fraction, 0) for images in sites.values()]
    found = {(sum_, label) for sum_, label in seen if label >= 0}
    expected = {
        (sum_, label)
        for images in given
        for sum_, label in zip(
            images.batch(range(len(images))).half().sum((1, 2, 3)).tolist(), images.labels.tolist(), strict=True
        )
    }
    assert found == expected
    assert len(seen) == sum(map(len, sites.values()))
    assert run.about()["label_fraction"] == fraction
    assert json.loads((sample(run.path, tmp_path / "set", 2, steps=1).parent / "set.json").read_text())[
        "label_fraction"
    ] == fraction  # fmt: skip


def test_a_site_trains_with_a_fraction_of_its_labels_and_is_audited_with_all() -> None:
    """Held-out images are those of sites that train."""
    cohort = replace(phantoms(), phantom=Phantoms(sites=3, images_per_site=16)).load()
    tested = cohort.sites["hospital_3"].select("test")
    cohort = replace(cohort, sites=cohort.sites | {"hospital_3": tested})
    task = Generation(FedAvg(), Visit(), Diffusion, True, 0.3, 0)
    train, held_out = task.parts(cohort)
    assert list(train) == list(held_out) == ["hospital_1", "hospital_2"]
    for site, whole in cohort.split("train").items():
        assert 0 < (train[site].labels >= 0).sum() < len(whole)
        assert torch.equal(train[site].with_all_labels().labels, whole.labels)
        assert len(held_out[site]) + len(train[site]) == len(cohort.sites[site])
        assert "train" not in held_out[site].splits


def test_paired_diffusion_uses_a_fraction_of_the_masks() -> None:
    cohort = replace(phantoms(), phantom=Phantoms(sites=2, images_per_site=16)).load()
    images = cohort.split("train")
    less = _given(cohort, images, ("labels", "masks"), 0.3, 0)
    for site, own in less.items():
        assert set(images_with_mask(own).patients) == set(
            patient_subset(images_with_mask(images[site]), 0.3, 0).patients
        )
        assert 0 < len(images_with_mask(own)) < len(own) == len(images[site])
    assert all(own.masks_used is None for own in _given(cohort, images, "labels", 0.3, 0).values())
    assert _given(cohort, images, ("labels", "masks"), 1.0, 0) is images


def test_a_fraction_out_of_range_starts_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label_fraction must lie in \(0, 1\], got 0"):
        trained(tmp_path / "run", label_fraction=0.0)
    assert not (tmp_path / "run").exists()


def test_a_size_that_cannot_be_halved_starts_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"multiples of 2, got 17 x 17; set data.size to 16 x 16 or 18 x 18"):
        trained(tmp_path / "run", data=phantoms(17))
    assert not (tmp_path / "run").exists()


def test_a_site_with_a_nan_loss_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Diffusion.loss

    def broken(self: Diffusion, images: Any, labels: Any, sites: Any) -> Any:
        return loss(self, images, labels, sites) * (float("nan") if self.site == 1 else 1.0)

    monkeypatch.setattr(Diffusion, "loss", broken)
    run = trained(tmp_path / "run")
    assert all("loss" not in turn["sites"]["hospital_2"].get("metrics", {}) for turn in run.rounds())
    assert all("became nan" in turn["refused"]["hospital_2"] for turn in run.rounds())
    assert all(t.isfinite().all() for t in weights(run).values())


def test_the_commands_train_and_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = str(tmp_path / "run"), str(tmp_path / "set")
    small = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "8"]
    words = ["generate", "train", "diffusion", "--out", run, "--rounds.count", "1", "--visit.max_epochs", "1", *small]
    for call, code in (
        ([*words, "--generator.init_args.network.init_args.widths", "[8,16]", "--visit.accelerator", "cpu"], 0),
        (["generate", "sample", run, folder, "--count", "6", "--steps", "2"], 0),
        (["generate", "sample", run, folder, "--count", "6", "--steps", "2"], 2),
        (["generate", "sample", run, folder, "--class", "cow"], 2),
        (["generate", "sampl", run, folder], 2),
        (["generate"], 0),
        (["data", "check", f"{folder}/manifest.csv"], 0),
    ):
        with pytest.raises(SystemExit) as ended:
            main(call)
        assert ended.value.code == code, call
    printed = capsys.readouterr()
    assert f"{folder}/manifest.csv" in printed.out
    assert "holds a set already; continue it with --resume true" in printed.err
    assert "did you mean 'sample'?" in printed.err


def test_without_condition_on_site_the_set_has_no_site_style(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", condition_on_site=False)
    assert load_generator(run.path / "generator").conditions.sites == ()
    assert all(not turn["refused"] for turn in run.rounds())
    manifest = sample(run.path, tmp_path / "set", 4, steps=2)
    with manifest.open(newline="") as file:
        assert {row["site_style"] for row in csv.DictReader(file)} == {""}
