from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.runs.classifiers import MODEL, classifiers_of
from fedcore.runs.folder import RunFolder
from fedcore.training.site_state import personal_weights
from fedgen.auditing.run import audit
from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.ensemble import Ensemble, TrainedClassifiers
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from fedgen.releases.release import release
from fedgen.synthetic import synthetic_set as module
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedcore.federating import same
from tests.fedgen.oneshot.finetuned import finetuned

QUICK: dict[str, Any] = {"inversion": Inversion(steps=2), "batch_size": 4}


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in sorted((folder / "images").iterdir())}


def test_local_training_leaves_a_classifier_per_site_and_fedavg_one(local_run: Path, fedavg_run: Path) -> None:
    networks, memories = classifiers_of(RunFolder(local_run)), RunFolder(local_run).memories()
    assert list(networks) == ["hospital_1", "hospital_2"]
    for site, network in networks.items():
        kept = {k.removeprefix("module/"): t for k, t in memories.get(str(site)).items()}
        state = network.state_dict()
        assert {k for k in state if k.startswith("head.")} <= kept.keys() <= state.keys()
        assert all(torch.equal(t, state[k]) for k, t in kept.items())
    (one,) = classifiers_of(RunFolder(fedavg_run)).items()
    weights = safetensors.torch.load_file(fedavg_run / MODEL)
    assert one[0] is None
    assert all(torch.equal(t, weights[k]) for k, t in one[1].state_dict().items())


def test_a_site_has_its_personal_classifier(tmp_path: Path) -> None:
    run = finetuned(tmp_path / "own", algorithm="fedcore.algorithms.ditto.Ditto")
    memories = RunFolder(run).memories()
    for site, network in classifiers_of(RunFolder(run)).items():
        assert same(dict(network.state_dict()), personal_weights(memories.get(str(site))))


def test_an_inverted_set_can_be_read_as_a_site(local_run: Path, tmp_path: Path) -> None:
    manifest = invert(local_run, tmp_path / "set", 6, **QUICK)
    cohort = Data(manifest=str(manifest), size=16, cache=tmp_path / "cache").load()
    assert (list(cohort.sites), len(cohort.classes), cohort.size) == (["synthetic"], 4, (16, 16))
    images = SyntheticSet.open(tmp_path / "set").images
    assert [image.label for image in images] == [*cohort.classes, *cohort.classes[:2]]
    assert {image.site_style for image in images} == {None}


def test_an_image_is_the_result_of_inverting_its_batch(local_run: Path, tmp_path: Path) -> None:
    invert(local_run, tmp_path / "joint", 6, **QUICK)
    invert(local_run, tmp_path / "per_site", 10, per_site=True, seed=3, **QUICK)
    found, per_site = (
        TrainedClassifiers.open(local_run),
        {i.number: i for i in SyntheticSet.open(tmp_path / "per_site").images},
    )
    noise, labels = noise_of(0, range(4, 8), (1, 16, 16)), torch.arange(4)
    *_, images = Inversion(steps=2).trajectory(
        found.of_site("hospital_1"), noise, labels, (0, 4)
    )  # the other one is held out
    torch.testing.assert_close(
        SyntheticSet.open(tmp_path / "joint").pixels()[4:].float(), images[:2], atol=1e-2, rtol=0
    )
    assert [per_site[i].site_style for i in range(4)] == ["hospital_1", "hospital_2"] * 2
    assert per_site[9].label == found.conditions.classes[0]  # the fifth of its site
    noise, labels = noise_of(3, range(1, 8, 2), (1, 16, 16)), torch.arange(4)
    *_, images = Inversion(steps=2).trajectory(found.of_site("hospital_2"), noise, labels, (3, 1))
    drawn = SyntheticSet.open(tmp_path / "per_site").pixels()[1:8:2].float()
    torch.testing.assert_close(drawn, images, atol=1e-2, rtol=0)


@pytest.mark.parametrize("per_site", [True, False])
def test_an_interrupted_set_resumes_to_the_same_result(
    local_run: Path, tmp_path: Path, per_site: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert(local_run, tmp_path / "whole", 11, per_site=per_site, **QUICK)
    write, written = module.write_atomically, []

    def full(path: Path, data: bytes, durable: bool = False) -> None:
        written.append(path)
        if len(written) == 10:
            raise InputError("the disk is full")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        with pytest.raises(InputError, match="the disk is full"):
            invert(local_run, tmp_path / "set", 11, per_site=per_site, **QUICK)
    invert(local_run, tmp_path / "set", 9, per_site=per_site, resume=True, **QUICK)
    invert(local_run, tmp_path / "set", 11, per_site=per_site, resume=True, **QUICK)
    assert (tmp_path / "set" / "manifest.csv").read_bytes() == (tmp_path / "whole" / "manifest.csv").read_bytes()
    assert (tmp_path / "set" / "set.json").read_bytes() == (tmp_path / "whole" / "set.json").read_bytes()
    one, two = pixels(tmp_path / "set"), pixels(tmp_path / "whole")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("per_site", [True, False])
def test_the_set_holds_the_accuracy_of_the_held_out_classifier(local_run: Path, tmp_path: Path, per_site: bool) -> None:
    invert(local_run, tmp_path / "set", 11, per_site=per_site, **QUICK)
    found, synthetic = TrainedClassifiers.open(local_run), SyntheticSet.open(tmp_path / "set")
    counts = {name: [0, 0, 0.0] for name in found.conditions.classes}
    for image, pixels in zip(synthetic.images, synthetic.pixels().float(), strict=True):
        inverted = (
            int(str(image.site_style)[-1]) if per_site else 2 - image.number // 4 % 2
        )  # the first round holds out the first site
        with torch.no_grad():
            given = found.networks[f"hospital_{3 - inverted}"](pixels[None]).softmax(1)[0]
        label = found.conditions.class_index(image.label)
        for at, value in enumerate((1, int(given.argmax()) == label, float(given[label]))):
            counts[str(image.label)][at] += value
    accuracy = synthetic.settings["teacher_accuracy"]
    assert accuracy.keys() == counts.keys()
    for name, (images, correct, total) in counts.items():
        assert (accuracy[name]["images"], accuracy[name]["correct"]) == (images, correct)
        assert accuracy[name]["probability"] == pytest.approx(total / images, abs=1e-3)


def test_without_a_held_out_classifier_no_accuracy_is_measured(
    local_run: Path, fedavg_run: Path, tmp_path: Path
) -> None:
    invert(fedavg_run, tmp_path / "one", 4, **QUICK)
    all_inverted = Inversion(steps=2, hold_out=False)
    invert(local_run, tmp_path / "all", 4, inversion=all_inverted, batch_size=4)
    for folder in ("one", "all"):
        assert SyntheticSet.open(tmp_path / folder).settings["teacher_accuracy"] == {}
    noise, found = noise_of(0, range(4), (1, 16, 16)), TrainedClassifiers.open(local_run)
    *_, images = all_inverted.trajectory(Ensemble(found.networks.values()), noise, torch.arange(4), (0, 0))
    torch.testing.assert_close(SyntheticSet.open(tmp_path / "all").pixels().float(), images, atol=1e-2, rtol=0)


def test_resuming_measures_the_accuracy_that_an_interrupted_run_did_not(local_run: Path, tmp_path: Path) -> None:
    invert(local_run, tmp_path / "set", 4, **QUICK)
    path = tmp_path / "set" / "set.json"
    whole = path.read_bytes()
    path.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "teacher_accuracy"}))
    invert(local_run, tmp_path / "set", 4, resume=True, **QUICK)
    assert path.read_bytes() == whole


def test_resuming_a_complete_set_sends_no_weights_again(tmp_path: Path) -> None:
    run = finetuned(tmp_path / "run")
    invert(run, tmp_path / "set", 4, **QUICK)
    before = (run / "sites" / "hospital_1" / "audit.jsonl").read_bytes()
    invert(run, tmp_path / "set", 3, resume=True, **QUICK)
    assert (run / "sites" / "hospital_1" / "audit.jsonl").read_bytes() == before


def test_weights_leave_a_site_only_for_joint_inversion(tmp_path: Path) -> None:
    run = finetuned(tmp_path / "run")
    file = run / "sites" / "hospital_1" / "audit.jsonl"
    before = file.read_text().splitlines()
    invert(run, tmp_path / "per_site", 4, per_site=True, **QUICK)
    assert file.read_text().splitlines() == before
    invert(run, tmp_path / "joint", 4, **QUICK)
    line, metrics = map(json.loads, file.read_text().splitlines()[len(before) :])
    network = TrainedClassifiers.open(run).networks["hospital_1"]
    assert (line["reveals"], line["tensors"]) == ("WEIGHTS", len(network.state_dict()))
    assert (metrics["values"].keys(), metrics["values"]["examples"]) == ({"examples", "seconds"}, 12.0)


def test_a_set_is_audited_against_the_run_it_was_inverted_from(local_run: Path, tmp_path: Path) -> None:
    invert(local_run, tmp_path / "set", 4, **QUICK)
    found = audit(local_run, tmp_path / "set")
    assert set(found.sites) == {"hospital_1", "hospital_2"}
    release(tmp_path / "set", tmp_path / "out", force=True)
    sheet = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "Inverted from classifiers of 2 hospitals" in sheet
    assert "every hospital sent its own classifier" in sheet
    assert "assigned to their class by classifiers that they were not inverted from" in sheet
    assert "teacher_accuracy {" not in sheet
