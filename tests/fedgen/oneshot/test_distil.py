from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedcore.cli.main import main
from fedcore.errors import InputError
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.runs.classifiers import MODEL, fresh_classifier
from fedcore.runs.folder import RunFolder
from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.distil import distil
from fedgen.oneshot.distillation import Distillation, shuffled_batches, soft_targets, trajectory_batches
from fedgen.oneshot.ensemble import Ensemble, TrainedClassifiers
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from fedgen.oneshot.teacher_accuracy import TeacherAccuracy
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.oneshot.conftest import fedavg_run, local_run
from tests.fedgen.oneshot.finetuned import finetuned
from tests.fedgen.oneshot.test_distillation import train
from tests.fedgen.oneshot.test_invert import QUICK

__all__ = ["fedavg_run", "local_run"]  # fixtures

HOW, INVERSION = Distillation(epochs=2), Inversion(steps=2)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / MODEL)


def same(run: Path, student: torch.nn.Module) -> bool:
    return all(torch.allclose(t, weights(run)[k], atol=1e-6) for k, t in student.state_dict().items())


def test_without_a_set_every_step_of_new_trajectories_is_a_batch(local_run: Path, tmp_path: Path) -> None:
    distil(local_run, tmp_path / "student", None, HOW, INVERSION, "random", 5, batch_size=6)
    found, student = TrainedClassifiers.open(local_run), fresh_classifier(RunFolder(local_run), 5)
    ensemble = Ensemble(found.networks.values())
    trajectories = [trajectory(found, epoch) for epoch in range(2)]
    train(HOW, student, (trajectory_batches(one, 2, ensemble, HOW.temperature) for one in trajectories))
    assert same(tmp_path / "student", student)


def trajectory(found: TrainedClassifiers, epoch: int) -> Iterator[torch.Tensor]:
    """Of six images, inverted from the classifier of one of two sites."""
    inverted = found.of_site(f"hospital_{2 - epoch % 2}")
    noise, labels = noise_of(5, range(6 * epoch, 6 * epoch + 6), (1, 16, 16)), torch.tensor([0, 1, 2, 3, 0, 1])
    return INVERSION.trajectory(inverted, noise, labels, (5, epoch))


def test_a_student_starts_as_the_mean_of_classifiers_that_leave_anyway(local_run: Path, tmp_path: Path) -> None:
    still = Distillation(epochs=1, lr=1e-12)
    distil(local_run, tmp_path / "student", None, still, Inversion(steps=1), batch_size=4)
    one, other = (network.state_dict() for network in TrainedClassifiers.open(local_run).networks.values())
    for name, t in weights(tmp_path / "student").items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):  # these change with every batch
            torch.testing.assert_close(t, (one[name] + other[name]) / 2, rtol=1e-5, atol=1e-6)
    assert RunFolder(tmp_path / "student").about()["distilled"]["start"] == "mean"


def test_a_student_starts_from_a_pretrained_encoder_that_fits(local_run: Path, tmp_path: Path) -> None:
    for stem in (2, 3):
        save_encoder(tmp_path / f"stem_{stem}", ResNet(2, 1, depth=10, stem=stem), {}, "")
    still, quick = Distillation(epochs=1, lr=1e-12), Inversion(steps=1)
    distil(local_run, tmp_path / "student", None, still, quick, str(tmp_path / "stem_2"), batch_size=4)
    wanted = safetensors.torch.load_file(tmp_path / "stem_2" / "encoder.safetensors")
    torch.testing.assert_close(weights(tmp_path / "student")["encoder.conv1.weight"], wanted["conv1.weight"])
    with pytest.raises(InputError, match="holds another architecture"):
        distil(local_run, tmp_path / "other", None, still, quick, str(tmp_path / "stem_3"), batch_size=4)
    with pytest.raises(InputError, match="holds no encoder"):
        distil(local_run, tmp_path / "other", None, still, quick, "average", batch_size=4)
    assert not (tmp_path / "other").exists()


def test_classifiers_leave_once_without_a_set_and_never_with_one(tmp_path: Path) -> None:
    run = finetuned(tmp_path / "run")
    file = run / "sites" / "hospital_1" / "audit.jsonl"
    invert(run, tmp_path / "set", 4, per_site=True, **QUICK)
    before = file.read_text()
    distil(run, tmp_path / "by_images", tmp_path / "set", Distillation(epochs=1), batch_size=4)
    assert file.read_text() == before
    distil(run, tmp_path / "student", None, Distillation(epochs=1), Inversion(steps=1), batch_size=4)
    assert len(file.read_text().splitlines()) == len(before.splitlines()) + 2  # the model, and its metrics


def test_targets_of_a_set_come_from_the_site_of_each_image(local_run: Path, tmp_path: Path) -> None:
    invert(local_run, tmp_path / "set", 8, per_site=True, **QUICK)
    distil(local_run, tmp_path / "student", tmp_path / "set", HOW, seed=5, batch_size=4)
    images, found = SyntheticSet.open(tmp_path / "set").pixels().float(), TrainedClassifiers.open(local_run)
    with torch.no_grad():
        logits = [found.networks[f"hospital_{1 + i % 2}"](images[i : i + 1]) for i in range(8)]
    targets, student = soft_targets(torch.cat(logits), HOW.temperature), fresh_classifier(RunFolder(local_run), 5)
    train(HOW, student, (shuffled_batches(images, targets, 4, (5, epoch)) for epoch in range(2)))
    assert same(tmp_path / "student", student)


def test_targets_of_a_set_without_sites_come_from_all_classifiers(
    local_run: Path, fedavg_run: Path, tmp_path: Path
) -> None:
    invert(fedavg_run, tmp_path / "set", 4, **QUICK)
    distil(local_run, tmp_path / "student", tmp_path / "set", HOW, batch_size=4)
    images, student = SyntheticSet.open(tmp_path / "set").pixels().float(), fresh_classifier(RunFolder(local_run), 0)
    with torch.no_grad():
        targets = soft_targets(Ensemble(TrainedClassifiers.open(local_run).networks.values())(images), HOW.temperature)
    train(HOW, student, (shuffled_batches(images, targets, 4, (0, epoch)) for epoch in range(2)))
    assert same(tmp_path / "student", student)


def test_a_run_holds_the_teacher_accuracy_on_its_inverted_images(local_run: Path, tmp_path: Path) -> None:
    distil(local_run, tmp_path / "student", None, HOW, INVERSION, None, 5, batch_size=6)
    found, labels = TrainedClassifiers.open(local_run), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = TeacherAccuracy.zero(4)
    for epoch in range(2):
        *_, last = trajectory(found, epoch)
        expected = expected + TeacherAccuracy.of(found.of_site(f"hospital_{1 + epoch % 2}")(last), labels)
    accuracy = RunFolder(tmp_path / "student").about()["teacher_accuracy"]
    assert accuracy == expected.by_class(found.conditions.classes)
    assert [of["images"] for of in accuracy.values()] == [4, 4, 2, 2]


def test_the_commands_invert_distil_and_evaluate(
    local_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic, student, run = str(tmp_path / "set"), str(tmp_path / "student"), str(local_run)
    quick = ["--inversion.steps", "2", "--batch_size", "4"]
    for call, code in (
        (["generate", "invert", run, synthetic, "--count", "6", *quick], 0),
        (["generate", "invert", run, synthetic, "--count", "6", *quick], 2),
        (["generate", "distil", run, student, *quick, "--distillation.epochs", "1"], 0),
        (["generate", "distil", run, student, *quick], 2),
        (["generate", "distil", run, f"{student}_2", "--synthetic", synthetic, "--distillation.epochs", "1"], 0),
        (["generate", "distil", run, f"{student}_3", "--distillation.epochs", "0"], 2),
        (["data", "check", f"{synthetic}/manifest.csv"], 0),
        (["evaluate", student], 0),
    ):
        with pytest.raises(SystemExit) as ended:
            main(call)
        assert ended.value.code == code, call
    printed = capsys.readouterr()
    assert "Not audited yet: may contain copies of patient images" in printed.out
    assert "correct" in printed.out.splitlines()[1]
    assert f"result: {student}\n" in printed.out
    assert "pooled" in printed.out
    about = RunFolder(tmp_path / "student").about()
    assert (about["command"], about["status"], about["distilled"]["distillation"]["epochs"]) == (
        "finetune",
        "finished",
        1,
    )


def test_a_student_is_one_classifier_of_all_sites(local_run: Path, tmp_path: Path) -> None:
    distil(local_run, tmp_path / "student", None, HOW, INVERSION, batch_size=4)
    assert list(TrainedClassifiers.open(tmp_path / "student").networks) == [None]


def test_an_error_names_what_does_not_fit(local_run: Path, tmp_path: Path) -> None:
    invert(local_run, tmp_path / "set", 2, **QUICK)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="batch_size must be at least 2"):
        distil(local_run, tmp_path / "new", batch_size=1)
    with pytest.raises(InputError, match="is not empty and holds no run"):
        distil(local_run, tmp_path / "full")
    with pytest.raises(InputError, match="holds no synthetic set"):
        distil(local_run, tmp_path / "new", tmp_path / "full")
    for path in (tmp_path / "set" / "images").iterdir():
        from PIL import Image

        Image.new("L", (8, 8)).save(path)
    with pytest.raises(InputError, match=r"take images of 1 x 16 x 16 \(channels first\), .* holds 1 x 8 x 8"):
        distil(local_run, tmp_path / "new", tmp_path / "set")
    assert not (tmp_path / "new").exists()
