from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from fedcore.cli.main import main
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.files.writing import write_json
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
from tests.fedcore.toys import same
from tests.runs import seal

QUICK: dict[str, Any] = {"inversion": Inversion(steps=2), "batch_size": 4}
SMALL = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "16"]


def finetuned(folder: Path, *words: str, algorithm: str = "fedcore.algorithms.local_only.LocalOnly") -> Path:
    """A finished finetune run."""
    words = (*SMALL, "--rounds.count", "1", "--visit.batch_size", "8", "--visit.accelerator", "cpu", *words)
    encoder = [
        "--encoder",
        "fedcore.models.resnet.ResNet",
        "--encoder.init_args.depth",
        "10",
        "--encoder.init_args.stem",
        "2",
    ]
    with pytest.raises(SystemExit) as ended:
        main(
            ["finetune", "--out", str(folder), "--algorithm", algorithm, *encoder, "--policy.min_patients", "1", *words]
        )
    assert ended.value.code == 0
    return folder


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuned(tmp_path_factory.mktemp("finetuned") / "local")


@pytest.fixture(scope="module")
def fedavg_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuned(tmp_path_factory.mktemp("finetuned") / "fedavg", algorithm="fedcore.algorithms.fedavg.FedAvg")


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


def test_an_error_names_what_does_not_fit(local_run: Path, fedavg_run: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("has no class 'cow'", {"classes": ["cow"]}),
        ("has one classifier of all sites; remove --per_site", {"run": fedavg_run, "per_site": True}),
        ("count and batch_size must be at least 1, got 0 and 4", {"count": 0}),
        ("inversion.competition must be 0", {"inversion": Inversion(competition=1.0)}),
        ("finished finetune run, .* holds a no run that is missing", {"run": tmp_path}),
    ]
    for message, changed in cases:
        arguments: dict[str, Any] = {"run": local_run, "out": tmp_path / "new", "count": 2, **QUICK, **changed}
        with pytest.raises(InputError, match=message):
            invert(**arguments)
    assert not (tmp_path / "new").exists()
    invert(local_run, tmp_path / "set", 2, **QUICK)
    for message, changed in [
        ("holds a set already", {}),
        ("has another inversion", {"resume": True, "inversion": Inversion(steps=3)}),
        ("has another batch_size", {"resume": True, "batch_size": 5}),
    ]:
        with pytest.raises(InputError, match=message):
            invert(local_run, tmp_path / "set", **{"count": 4, **QUICK, **changed})


def test_classifiers_without_batch_norm_are_an_error_unless_its_weight_is_0(tmp_path: Path) -> None:
    vit = [
        "--encoder",
        "fedcore.models.vit.ViT",
        "--encoder.init_args.patch",
        "8",
        "--encoder.init_args.width",
        "12",
    ]
    run = finetuned(tmp_path / "run", *vit, "--encoder.init_args.depth", "1")
    with pytest.raises(InputError, match="have no batch norm"):
        invert(run, tmp_path / "set", 2, **QUICK)
    invert(run, tmp_path / "set", 2, inversion=Inversion(steps=2, batch_norm=0.0), batch_size=2)


@pytest.mark.parametrize("broken", ["recipe", "weights", "class"])
def test_a_damaged_run_is_an_error(broken: str, tmp_path: Path) -> None:
    run = finetuned(tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    if broken == "weights":
        (run / MODEL).write_bytes(b"nonsense")
    else:
        changed = "seed: 0" if broken == "recipe" else recipe.replace("fedcore.models.resnet.ResNet", "gone.Encoder")
        (run / "recipe.yaml").write_text(changed)
    with pytest.raises(InputError, match=r"corrupted|damaged|the recipe's encoder cannot be built"):
        invert(run, tmp_path / "set", 2, **QUICK)


def test_a_classifier_of_several_findings_is_an_error(fedavg_run: Path, tmp_path: Path) -> None:
    shutil.copytree(fedavg_run, tmp_path, dirs_exist_ok=True)
    write_json(tmp_path / "run.json", RunFolder(fedavg_run).about() | {"multilabel": True})
    seal(tmp_path)
    with pytest.raises(InputError, match="predicts several findings per image"):
        TrainedClassifiers.open(tmp_path)
