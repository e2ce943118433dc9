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
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.classifiers import MODEL, classifiers_of
from fedcore.runs.folder import RunFolder
from fedcore.training.local_trainer import personal
from fedgen.auditing.run import inspect
from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.ensemble import Ensemble, Tuned
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from fedgen.releases.release import release
from fedgen.synthetic import synthetic_set as module
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedcore.toys import same
from tests.runs import seal

QUICK: dict[str, Any] = {"inversion": Inversion(steps=2), "batch_size": 4}
SMALL = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "16"]


def tuned(folder: Path, *words: str, algorithm: str = "fedcore.algorithms.local_only.LocalOnly") -> Path:
    """A finished finetune run."""
    words = (*SMALL, "--rounds.count", "1", "--visit.batch_size", "8", "--visit.accelerator", "cpu", *words)
    encoder = [
        "--encoder",
        "fedcore.models.encoders.ResNet",
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
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("tuned") / "alone")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("tuned") / "together", algorithm="fedcore.algorithms.base.FedAvg")


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in sorted((folder / "images").iterdir())}


def test_sites_that_trained_alone_have_a_classifier_each_and_others_one(alone: Path, together: Path) -> None:
    networks, memories = classifiers_of(RunFolder(alone)), Checkpoint.open(alone / "state")
    assert list(networks) == ["hospital_1", "hospital_2"]
    for site, network in networks.items():
        kept = {k.removeprefix("module/"): t for k, t in memories.get(str(site)).items()}
        state = network.state_dict()
        assert {k for k in state if k.startswith("head.")} <= kept.keys() <= state.keys()
        assert all(torch.equal(t, state[k]) for k, t in kept.items())
    (one,) = classifiers_of(RunFolder(together)).items()
    weights = safetensors.torch.load_file(together / MODEL)
    assert one[0] is None
    assert all(torch.equal(t, weights[k]) for k, t in one[1].state_dict().items())


def test_a_site_with_a_personal_classifier_has_that_one(tmp_path: Path) -> None:
    run = tuned(tmp_path / "own", algorithm="fedcore.algorithms.ditto.Ditto")
    memories = Checkpoint.open(run / "state")
    for site, network in classifiers_of(RunFolder(run)).items():
        assert same(dict(network.state_dict()), personal(memories.get(str(site))))


def test_the_kit_reads_the_set_as_a_further_site(alone: Path, tmp_path: Path) -> None:
    manifest = invert(alone, tmp_path / "set", 6, **QUICK)
    cohort = Data(manifest=str(manifest), size=16, cache=tmp_path / "cache").load()
    assert (list(cohort.sites), len(cohort.classes), cohort.size) == (["synthetic"], 4, (16, 16))
    images = SyntheticSet.open(tmp_path / "set").images
    assert [image.label for image in images] == [*cohort.classes, *cohort.classes[:2]]
    assert {image.site_style for image in images} == {None}


def test_an_image_is_what_inversion_makes_of_its_batch(alone: Path, tmp_path: Path) -> None:
    invert(alone, tmp_path / "together", 6, **QUICK)
    invert(alone, tmp_path / "each", 10, each=True, seed=3, **QUICK)
    found, each = Tuned.open(alone), {i.number: i for i in SyntheticSet.open(tmp_path / "each").images}
    noise, labels = noise_of(0, range(4, 8), (1, 16, 16)), torch.arange(4)
    *_, images = Inversion(steps=2).walk(found.alone("hospital_1"), noise, labels, (0, 4))  # the other is left out
    torch.testing.assert_close(
        SyntheticSet.open(tmp_path / "together").pixels()[4:].float(), images[:2], atol=1e-2, rtol=0
    )
    assert [each[i].site_style for i in range(4)] == ["hospital_1", "hospital_2"] * 2
    assert each[9].label == found.known.classes[0]  # the fifth of its site
    noise, labels = noise_of(3, range(1, 8, 2), (1, 16, 16)), torch.arange(4)
    *_, images = Inversion(steps=2).walk(found.alone("hospital_2"), noise, labels, (3, 1))
    drawn = SyntheticSet.open(tmp_path / "each").pixels()[1:8:2].float()
    torch.testing.assert_close(drawn, images, atol=1e-2, rtol=0)


@pytest.mark.parametrize("each", [True, False])
def test_an_interrupted_set_goes_on_to_what_it_would_have_been(
    alone: Path, tmp_path: Path, each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert(alone, tmp_path / "whole", 11, each=each, **QUICK)
    write, written = module.write_atomically, []

    def full(path: Path, data: bytes, durable: bool = False) -> None:
        written.append(path)
        if len(written) == 10:
            raise InputError("the disk is full")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        with pytest.raises(InputError, match="the disk is full"):
            invert(alone, tmp_path / "set", 11, each=each, **QUICK)
    invert(alone, tmp_path / "set", 9, each=each, resume=True, **QUICK)
    invert(alone, tmp_path / "set", 11, each=each, resume=True, **QUICK)
    assert (tmp_path / "set" / "manifest.csv").read_bytes() == (tmp_path / "whole" / "manifest.csv").read_bytes()
    assert (tmp_path / "set" / "set.json").read_bytes() == (tmp_path / "whole" / "set.json").read_bytes()
    one, two = pixels(tmp_path / "set"), pixels(tmp_path / "whole")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("each", [True, False])
def test_the_set_says_how_many_images_the_classifier_left_out_recognises(
    alone: Path, tmp_path: Path, each: bool
) -> None:
    invert(alone, tmp_path / "set", 11, each=each, **QUICK)
    found, drawn = Tuned.open(alone), SyntheticSet.open(tmp_path / "set")
    counts = {name: [0, 0, 0.0] for name in found.known.classes}
    for image, pixels in zip(drawn.images, drawn.pixels().float(), strict=True):
        maker = (
            int(str(image.site_style)[-1]) if each else 2 - image.number // 4 % 2
        )  # the first round leaves out the first
        with torch.no_grad():
            given = found.networks[f"hospital_{3 - maker}"](pixels[None]).softmax(1)[0]
        label = found.known.class_index(image.label)
        for at, value in enumerate((1, int(given.argmax()) == label, float(given[label]))):
            counts[str(image.label)][at] += value
    told = drawn.settings["teacher_accuracy"]
    assert told.keys() == counts.keys()
    for name, (images, recognised, total) in counts.items():
        assert (told[name]["images"], told[name]["recognised"]) == (images, recognised)
        assert told[name]["probability"] == pytest.approx(total / images, abs=1e-3)


def test_a_classifier_alone_has_nobody_to_judge_its_images_and_none_is_asked(
    alone: Path, together: Path, tmp_path: Path
) -> None:
    invert(together, tmp_path / "one", 4, **QUICK)
    everyone = Inversion(steps=2, hold_out=False)
    invert(alone, tmp_path / "all", 4, inversion=everyone, batch_size=4)
    for folder in ("one", "all"):
        assert SyntheticSet.open(tmp_path / folder).settings["teacher_accuracy"] == {}
    noise, found = noise_of(0, range(4), (1, 16, 16)), Tuned.open(alone)
    *_, images = everyone.walk(Ensemble(found.networks.values()), noise, torch.arange(4), (0, 0))
    torch.testing.assert_close(SyntheticSet.open(tmp_path / "all").pixels().float(), images, atol=1e-2, rtol=0)


def test_a_set_that_was_stopped_before_it_was_judged_is_judged_by_a_resume(alone: Path, tmp_path: Path) -> None:
    invert(alone, tmp_path / "set", 4, **QUICK)
    path = tmp_path / "set" / "set.json"
    whole = path.read_bytes()
    path.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "teacher_accuracy"}))
    invert(alone, tmp_path / "set", 4, resume=True, **QUICK)
    assert path.read_bytes() == whole


def test_a_set_that_is_whole_has_no_weights_sent_again(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    invert(run, tmp_path / "set", 4, **QUICK)
    before = (run / "sites" / "hospital_1" / "audit.jsonl").read_bytes()
    invert(run, tmp_path / "set", 3, resume=True, **QUICK)
    assert (run / "sites" / "hospital_1" / "audit.jsonl").read_bytes() == before


def test_weights_leave_a_site_where_all_are_inverted_together_and_else_do_not(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    file = run / "sites" / "hospital_1" / "audit.jsonl"
    before = file.read_text().splitlines()
    invert(run, tmp_path / "each", 4, each=True, **QUICK)
    assert file.read_text().splitlines() == before
    invert(run, tmp_path / "together", 4, **QUICK)
    line, metrics = map(json.loads, file.read_text().splitlines()[len(before) :])
    network = Tuned.open(run).networks["hospital_1"]
    assert (line["reveals"], line["tensors"]) == ("WEIGHTS", len(network.state_dict()))
    assert metrics["values"] == {"examples": 12.0, "seconds": 0.0}


def test_a_set_is_audited_against_the_run_it_was_inverted_from(alone: Path, tmp_path: Path) -> None:
    invert(alone, tmp_path / "set", 4, **QUICK)
    found = inspect(alone, tmp_path / "set")
    assert set(found.sites) == {"hospital_1", "hospital_2"}
    release(tmp_path / "set", tmp_path / "out", force=True)
    sheet = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "Inverted from what classifiers of 2 hospitals know of their images" in sheet
    assert "Then its whole classifier left every hospital" in sheet
    assert "recognised as their class by classifiers that had no part in them" in sheet
    assert "recognition {" not in sheet


def test_what_does_not_fit_is_said(alone: Path, together: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("has no class 'cow'", {"classes": ["cow"]}),
        ("have one classifier together; leave --each out", {"run": together, "each": True}),
        ("count and batch_size must be at least 1, got 0 and 4", {"count": 0}),
        ("inversion.compete must be 0", {"inversion": Inversion(compete=1.0)}),
        ("finished finetune run, .* holds a no run that is missing", {"run": tmp_path}),
    ]
    for said, changed in cases:
        asked: dict[str, Any] = {"run": alone, "out": tmp_path / "new", "count": 2, **QUICK, **changed}
        with pytest.raises(InputError, match=said):
            invert(**asked)
    assert not (tmp_path / "new").exists()
    invert(alone, tmp_path / "set", 2, **QUICK)
    for said, changed in [
        ("holds a set already", {}),
        ("has another inversion", {"resume": True, "inversion": Inversion(steps=3)}),
        ("has another batch_size", {"resume": True, "batch_size": 5}),
    ]:
        with pytest.raises(InputError, match=said):
            invert(alone, tmp_path / "set", **{"count": 4, **QUICK, **changed})


def test_classifiers_without_batch_norm_are_refused_unless_wanted(tmp_path: Path) -> None:
    vit = [
        "--encoder",
        "fedcore.models.encoders.ViT",
        "--encoder.init_args.patch",
        "8",
        "--encoder.init_args.width",
        "12",
    ]
    run = tuned(tmp_path / "run", *vit, "--encoder.init_args.depth", "1")
    with pytest.raises(InputError, match="have no batch norm"):
        invert(run, tmp_path / "set", 2, **QUICK)
    invert(run, tmp_path / "set", 2, inversion=Inversion(steps=2, statistics=0.0), batch_size=2)


@pytest.mark.parametrize("broken", ["recipe", "weights", "class"])
def test_a_damaged_run_is_refused(broken: str, tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    if broken == "weights":
        (run / MODEL).write_bytes(b"nonsense")
    else:
        changed = "seed: 0" if broken == "recipe" else recipe.replace("fedcore.models.encoders.ResNet", "gone.Encoder")
        (run / "recipe.yaml").write_text(changed)
    with pytest.raises(InputError, match=r"corrupted|damaged|the recipe's encoder cannot be built"):
        invert(run, tmp_path / "set", 2, **QUICK)


def test_a_classifier_of_several_findings_is_refused(together: Path, tmp_path: Path) -> None:
    shutil.copytree(together, tmp_path, dirs_exist_ok=True)
    write_json(tmp_path / "run.json", RunFolder(together).about() | {"several_findings": True})
    seal(tmp_path)
    with pytest.raises(InputError, match="tells several findings an image"):
        Tuned.open(tmp_path)
