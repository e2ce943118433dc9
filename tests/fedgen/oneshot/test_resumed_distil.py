"""A distillation that was killed or stopped resumes to the same bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD

from fedcore.errors import InputError
from fedcore.files.writing import write_json
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.folder import RunFolder
from fedgen.oneshot.distil import distil
from fedgen.oneshot.distillation import Distillation
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from tests.fedgen.oneshot.test_distil import HOW, INVERSION
from tests.fedgen.oneshot.test_invert import QUICK

SGD_STEP = SGD.step


def left_by(run: Path) -> dict[str, bytes]:
    """Every file except those with time and environment, and without the random name of the run."""
    files = [p for p in run.rglob("*") if p.is_file() and p not in (run / "environment.json", run / "SHA256SUMS")]
    found = {p.relative_to(run).as_posix(): p.read_bytes() for p in files}
    name = RunFolder(run).name.encode()
    assert name
    return {path: data.replace(name, b"") for path, data in found.items()}


@contextmanager
def killed_in(epoch: int, when: str) -> Iterator[None]:
    """Within an epoch of two batches, or after the student is written and before it is committed."""
    steps = itertools.count()

    def step(self: SGD, *_: Any) -> None:
        if when == "batch" and next(steps) == 2 * epoch + 1:
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


@pytest.mark.parametrize("when", ["batch", "commit"])
@pytest.mark.parametrize("with_set", [True, False], ids=["set", "trajectories"])
def test_a_killed_distillation_resumes_to_the_same_bits(
    local_run: Path, tmp_path: Path, with_set: bool, when: str
) -> None:
    how, synthetic = Distillation(epochs=3), tmp_path / "set" if with_set else None
    if with_set:
        invert(local_run, tmp_path / "set", 8, **QUICK)
    arguments: tuple[Any, ...] = (synthetic, how, Inversion(steps=2, competition=1.0), None, 5, 4)
    distil(local_run, tmp_path / "whole", *arguments)
    with killed_in(1, when):
        distil(local_run, tmp_path / "parts", *arguments)
    run = RunFolder(tmp_path / "parts")
    assert run.about()["status"] == "stopped"
    assert Checkpoint.open(run.path / "state").rounds == 1
    assert (run.path / "state/00001/server.safetensors").exists() == (when == "commit")
    distil(local_run, run.path, *arguments, resume=True)
    assert left_by(run.path) == left_by(tmp_path / "whole")
    assert run.about()["status"] == "finished"


def test_resuming_a_finished_distillation_changes_nothing(local_run: Path, tmp_path: Path) -> None:
    distil(local_run, tmp_path / "student", None, HOW, INVERSION, batch_size=4)
    before = left_by(tmp_path / "student")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "train_epoch", None)
        distil(local_run, tmp_path / "student", None, HOW, INVERSION, batch_size=4, resume=True)
    assert left_by(tmp_path / "student") == before


def test_a_distillation_stopped_in_its_first_epoch_starts_anew(local_run: Path, tmp_path: Path) -> None:
    with killed_in(0, "batch"):
        distil(local_run, tmp_path / "student", None, HOW, INVERSION, None, 3, 4)
    distil(local_run, tmp_path / "student", None, HOW, INVERSION, None, 5, 4)
    assert RunFolder(tmp_path / "student").about()["distilled"]["seed"] == 5


def test_only_the_same_distillation_can_be_resumed(local_run: Path, fedavg_run: Path, tmp_path: Path) -> None:
    invert(fedavg_run, tmp_path / "set", 4, **QUICK)
    with killed_in(1, "batch"):
        distil(local_run, tmp_path / "student", None, HOW, INVERSION, batch_size=4)
    before = left_by(tmp_path / "student")
    usual: dict[str, Any] = {
        "run": local_run,
        "distillation": HOW,
        "inversion": INVERSION,
        "batch_size": 4,
        "resume": True,
    }
    for message, changed in [
        ("already holds a run; continue it with --resume true", {"resume": False}),
        (r"another recipe: 1 error\n  distilled\.seed was 0, is now 1", {"seed": 1}),
        (r"distilled\.distillation\.epochs was 2, is now 3", {"distillation": Distillation(epochs=3)}),
        (r"distilled\.inversion\.steps was 2, is now 3", {"inversion": Inversion(steps=3)}),
        (r"distilled\.start was mean, is now random", {"start": "random"}),
        (r"distilled\.synthetic was None, is now [0-9a-f]{64}", {"synthetic": tmp_path / "set"}),
        (r"distilled\.generator was ", {"run": fedavg_run}),
    ]:
        with pytest.raises(InputError, match=message):
            distil(**{**usual, "out": tmp_path / "student", **changed})
    with pytest.raises(InputError, match=r"distilled\.seed was absent, is now 0"):
        distil(**{**usual, "out": local_run})
    assert left_by(tmp_path / "student") == before
