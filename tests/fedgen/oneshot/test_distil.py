from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.optim import SGD

from fedcore.cli.main import main
from fedcore.errors import InputError
from fedcore.files.writing import write_json
from fedcore.models.encoder_store import save_encoder
from fedcore.models.encoders import ResNet
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.classifiers import MODEL, fresh_classifier
from fedcore.runs.folder import RunFolder
from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.distil import distil
from fedgen.oneshot.distillation import Distillation, along, shuffled, softened
from fedgen.oneshot.ensemble import Ensemble, Tuned
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from fedgen.oneshot.teacher_accuracy import Recognition
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.oneshot.test_distillation import taught
from tests.fedgen.oneshot.test_invert import QUICK, alone, together, tuned

__all__ = ["alone", "together"]  # fixtures

SGD_STEP = SGD.step
HOW, MOVED = Distillation(epochs=2), Inversion(steps=2)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / MODEL)


def same(run: Path, student: torch.nn.Module) -> bool:
    return all(torch.allclose(t, weights(run)[k], atol=1e-6) for k, t in student.state_dict().items())


def test_without_a_set_every_step_of_new_walks_teaches(alone: Path, tmp_path: Path) -> None:
    distil(alone, tmp_path / "student", None, HOW, MOVED, "random", 5, batch_size=6)
    found, student = Tuned.open(alone), fresh_classifier(RunFolder(alone), 5)
    ensemble = Ensemble(found.networks.values())
    walks = [walk(found, epoch) for epoch in range(2)]
    taught(HOW, student, (along(walk, 2, ensemble, HOW.temperature) for walk in walks))
    assert same(tmp_path / "student", student)


def walk(found: Tuned, epoch: int) -> Iterator[torch.Tensor]:
    """Of six images; of two sites one makes them."""
    maker = found.alone(f"hospital_{2 - epoch % 2}")
    noise, labels = noise_of(5, range(6 * epoch, 6 * epoch + 6), (1, 16, 16)), torch.tensor([0, 1, 2, 3, 0, 1])
    return MOVED.walk(maker, noise, labels, (5, epoch))


def test_a_student_begins_as_the_mean_of_the_classifiers_that_leave_anyway(alone: Path, tmp_path: Path) -> None:
    still = Distillation(epochs=1, lr=1e-12)
    distil(alone, tmp_path / "student", None, still, Inversion(steps=1), batch_size=4)
    one, other = (network.state_dict() for network in Tuned.open(alone).networks.values())
    for name, t in weights(tmp_path / "student").items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):  # these move with every batch
            torch.testing.assert_close(t, (one[name] + other[name]) / 2, rtol=1e-5, atol=1e-6)
    assert RunFolder(tmp_path / "student").about()["distilled"]["start"] == "mean"


def test_a_student_begins_as_a_pretrained_encoder_that_fits(alone: Path, tmp_path: Path) -> None:
    for stem in (2, 3):
        save_encoder(tmp_path / f"stem_{stem}", ResNet(2, 1, depth=10, stem=stem), {}, "")
    still, quick = Distillation(epochs=1, lr=1e-12), Inversion(steps=1)
    distil(alone, tmp_path / "student", None, still, quick, str(tmp_path / "stem_2"), batch_size=4)
    wanted = safetensors.torch.load_file(tmp_path / "stem_2" / "encoder.safetensors")
    torch.testing.assert_close(weights(tmp_path / "student")["encoder.conv1.weight"], wanted["conv1.weight"])
    with pytest.raises(InputError, match="holds another architecture"):
        distil(alone, tmp_path / "other", None, still, quick, str(tmp_path / "stem_3"), batch_size=4)
    with pytest.raises(InputError, match="holds no encoder"):
        distil(alone, tmp_path / "other", None, still, quick, "average", batch_size=4)
    assert not (tmp_path / "other").exists()


def test_whatever_is_asked_of_the_classifiers_they_leave_once_and_of_a_set_never(tmp_path: Path) -> None:
    run = tuned(tmp_path / "run")
    file = run / "sites" / "hospital_1" / "audit.jsonl"
    invert(run, tmp_path / "set", 4, each=True, **QUICK)
    before = file.read_text()
    distil(run, tmp_path / "by_images", tmp_path / "set", Distillation(epochs=1), batch_size=4)
    assert file.read_text() == before
    distil(run, tmp_path / "student", None, Distillation(epochs=1), Inversion(steps=1), batch_size=4)
    assert len(file.read_text().splitlines()) == len(before.splitlines()) + 2  # the model, and its metrics


def test_with_a_set_images_are_answered_by_the_site_they_are_of(alone: Path, tmp_path: Path) -> None:
    invert(alone, tmp_path / "set", 8, each=True, **QUICK)
    distil(alone, tmp_path / "student", tmp_path / "set", HOW, seed=5, batch_size=4)
    images, found = SyntheticSet.open(tmp_path / "set").pixels().float(), Tuned.open(alone)
    with torch.no_grad():
        said = [found.networks[f"hospital_{1 + i % 2}"](images[i : i + 1]) for i in range(8)]
    soft, student = softened(torch.cat(said), HOW.temperature), fresh_classifier(RunFolder(alone), 5)
    taught(HOW, student, (shuffled(images, soft, 4, (5, epoch)) for epoch in range(2)))
    assert same(tmp_path / "student", student)


def test_a_set_of_no_site_is_answered_by_all_together(alone: Path, together: Path, tmp_path: Path) -> None:
    invert(together, tmp_path / "set", 4, **QUICK)
    distil(alone, tmp_path / "student", tmp_path / "set", HOW, batch_size=4)
    images, student = SyntheticSet.open(tmp_path / "set").pixels().float(), fresh_classifier(RunFolder(alone), 0)
    with torch.no_grad():
        soft = softened(Ensemble(Tuned.open(alone).networks.values())(images), HOW.temperature)
    taught(HOW, student, (shuffled(images, soft, 4, (0, epoch)) for epoch in range(2)))
    assert same(tmp_path / "student", student)


def left_by(run: Path) -> dict[str, bytes]:
    """Every file but those that say when and where it ran."""
    files = [p for p in run.rglob("*") if p.is_file() and p not in (run / "environment.json", run / "SHA256SUMS")]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


@contextmanager
def killed_in(epoch: int, when: str) -> Iterator[None]:
    """Within an epoch of two lessons, or after it has written the student and before that is committed."""
    steps = itertools.count()

    def step(self: SGD, *_: Any) -> None:
        if when == "lesson" and next(steps) == 2 * epoch + 1:
            raise KeyboardInterrupt
        SGD_STEP(self)

    def write(path: Path, content: Any, durable: bool = False) -> None:
        if when == "commit" and content["rounds"] == epoch + 1:
            raise KeyboardInterrupt
        write_json(path, content, durable)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGD, "step", step)
        patch.setattr("fedcore.runs.checkpoint.write_json", write)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("when", ["lesson", "commit"])
@pytest.mark.parametrize("passes", [True, False], ids=["passes", "walks"])
def test_a_killed_distillation_resumes_to_the_bit(alone: Path, tmp_path: Path, passes: bool, when: str) -> None:
    how, drawn = Distillation(epochs=3), tmp_path / "set" if passes else None
    if passes:
        invert(alone, tmp_path / "set", 8, **QUICK)
    asked: tuple[Any, ...] = (drawn, how, Inversion(steps=2, compete=1.0), None, 5, 4)
    distil(alone, tmp_path / "whole", *asked)
    with killed_in(1, when):
        distil(alone, tmp_path / "parts", *asked)
    run = RunFolder(tmp_path / "parts")
    assert run.about()["status"] == "stopped"
    assert Checkpoint.open(run.path / "state").rounds == 1
    assert (run.path / "state/00001/server.safetensors").exists() == (when == "commit")
    distil(alone, run.path, *asked, resume=True)
    assert left_by(run.path) == left_by(tmp_path / "whole")
    assert run.about()["status"] == "finished"


def test_a_distillation_that_is_done_has_nothing_left_to_do(alone: Path, tmp_path: Path) -> None:
    distil(alone, tmp_path / "student", None, HOW, MOVED, batch_size=4)
    before = left_by(tmp_path / "student")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "teach", None)
        distil(alone, tmp_path / "student", None, HOW, MOVED, batch_size=4, resume=True)
    assert left_by(tmp_path / "student") == before


def test_one_that_was_stopped_in_its_first_epoch_begins_anew(alone: Path, tmp_path: Path) -> None:
    with killed_in(0, "lesson"):
        distil(alone, tmp_path / "student", None, HOW, MOVED, None, 3, 4)
    distil(alone, tmp_path / "student", None, HOW, MOVED, None, 5, 4)
    assert RunFolder(tmp_path / "student").about()["distilled"]["seed"] == 5


def test_only_the_same_distillation_is_gone_on_with(alone: Path, together: Path, tmp_path: Path) -> None:
    invert(together, tmp_path / "set", 4, **QUICK)
    with killed_in(1, "lesson"):
        distil(alone, tmp_path / "student", None, HOW, MOVED, batch_size=4)
    before = left_by(tmp_path / "student")
    usual: dict[str, Any] = {"run": alone, "distillation": HOW, "inversion": MOVED, "batch_size": 4, "resume": True}
    for said, changed in [
        ("holds a run already; go on with it by --resume true", {"resume": False}),
        (r"another recipe: 1 fault\n  distilled\.seed was 0, is now 1", {"seed": 1}),
        (r"distilled\.distillation\.epochs was 2, is now 3", {"distillation": Distillation(epochs=3)}),
        (r"distilled\.inversion\.steps was 2, is now 3", {"inversion": Inversion(steps=3)}),
        (r"distilled\.start was mean, is now random", {"start": "random"}),
        (r"distilled\.drawn was None, is now [0-9a-f]{64}", {"drawn": tmp_path / "set"}),
        (r"distilled\.generator was ", {"run": together}),
    ]:
        with pytest.raises(InputError, match=said):
            distil(**{**usual, "out": tmp_path / "student", **changed})
    with pytest.raises(InputError, match=r"distilled\.seed was absent, is now 0"):
        distil(**{**usual, "out": alone})
    assert left_by(tmp_path / "student") == before


def test_a_run_says_how_its_inverted_images_are_recognised(alone: Path, tmp_path: Path) -> None:
    distil(alone, tmp_path / "student", None, HOW, MOVED, None, 5, batch_size=6)
    found, labels = Tuned.open(alone), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = Recognition.none(4)
    for epoch in range(2):
        *_, last = walk(found, epoch)
        expected = expected + Recognition.of(found.alone(f"hospital_{1 + epoch % 2}")(last), labels)
    told = RunFolder(tmp_path / "student").about()["recognition"]
    assert told == expected.told(found.known.classes)
    assert [of["images"] for of in told.values()] == [4, 4, 2, 2]


def test_the_commands_invert_distil_and_score(alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn, student, run = str(tmp_path / "set"), str(tmp_path / "student"), str(alone)
    quick = ["--inversion.steps", "2", "--batch_size", "4"]
    for call, code in (
        (["generate", "invert", run, drawn, "--count", "6", *quick], 0),
        (["generate", "invert", run, drawn, "--count", "6", *quick], 2),
        (["generate", "distil", run, student, *quick, "--distillation.epochs", "1"], 0),
        (["generate", "distil", run, student, *quick], 2),
        (["generate", "distil", run, f"{student}_2", "--drawn", drawn, "--distillation.epochs", "1"], 0),
        (["generate", "distil", run, f"{student}_3", "--distillation.epochs", "0"], 2),
        (["data", "check", f"{drawn}/manifest.csv"], 0),
        (["evaluate", student], 0),
    ):
        with pytest.raises(SystemExit) as ended:
            main(call)
        assert ended.value.code == code, call
    told = capsys.readouterr()
    assert "Not audited yet: copies of patients' images may be among them" in told.out
    assert "recognised" in told.out.splitlines()[1]
    assert f"result: {student}\n" in told.out
    assert "pooled" in told.out
    about = RunFolder(tmp_path / "student").about()
    assert (about["command"], about["status"], about["distilled"]["distillation"]["epochs"]) == (
        "finetune",
        "finished",
        1,
    )


def test_a_student_can_be_inverted_and_is_one_classifier_of_all(alone: Path, tmp_path: Path) -> None:
    distil(alone, tmp_path / "student", None, HOW, MOVED, batch_size=4)
    assert list(Tuned.open(tmp_path / "student").networks) == [None]


def test_what_does_not_fit_is_said(alone: Path, tmp_path: Path) -> None:
    invert(alone, tmp_path / "set", 2, **QUICK)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="batch_size must be at least 2"):
        distil(alone, tmp_path / "new", batch_size=1)
    with pytest.raises(InputError, match="is not empty and holds no run"):
        distil(alone, tmp_path / "full")
    with pytest.raises(InputError, match="holds no synthetic set"):
        distil(alone, tmp_path / "new", tmp_path / "full")
    for path in (tmp_path / "set" / "images").iterdir():
        from PIL import Image

        Image.new("L", (8, 8)).save(path)
    with pytest.raises(InputError, match=r"take images of 1 x 16 x 16 \(channels first\), .* holds 1 x 8 x 8"):
        distil(alone, tmp_path / "new", tmp_path / "set")
    assert not (tmp_path / "new").exists()
