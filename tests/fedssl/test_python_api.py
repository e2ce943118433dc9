from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedssl import PretrainingRun, pretrain
from tests.runs import code_of

SMALL: dict[str, Any] = {
    "data": {"size": 16, "phantom": {"sites": 2, "images_per_site": 80, "test_fraction": 0.25}},
    "encoder": {"init_args": {"depth": 10, "stem": 4}},
    "visit": {"batch_size": 20, "accelerator": "cpu"},
    "rounds.count": 1,
}
WORDS = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "80"]
WORDS += ["--data.phantom.test_fraction", "0.25", "--encoder.init_args.depth", "10", "--encoder.init_args.stem", "4"]
WORDS += ["--visit.batch_size", "20", "--visit.accelerator", "cpu", "--rounds.count", "1"]
WORDS += ["--policy.max_level", "FEATURES"]


def test_the_function_gives_what_the_command_gives(tmp_path: Path) -> None:
    run = pretrain("moco_shared_bank", tmp_path / "function", **SMALL, policy={"max_level": "FEATURES"})
    assert code_of(["pretrain", "moco_shared_bank", "--out", tmp_path / "command", *WORDS]) == 0
    assert run == PretrainingRun(tmp_path / "function")
    ours, theirs = run.encoder(), PretrainingRun(tmp_path / "command").encoder()
    assert not ours.training
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    images = torch.zeros(2, 1, 16, 16)
    assert torch.equal(ours(images), theirs(images))
    assert set(run.scores) == {"hospital_1", "hospital_2"}
    assert all(0 <= scores["knn"] <= 1 for scores in run.scores.values())
    assert len(run.rounds) == 1
    assert run.report(images=False).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    one, two = SMALL | {"probe": None}, SMALL | {"probe": None, "rounds.count": 2}
    at_once = pretrain(None, tmp_path / "at_once", **two)
    begun = pretrain(None, tmp_path / "begun", **one)
    with pytest.raises(InputError, match="already holds a run"):
        pretrain(None, tmp_path / "begun", **two)
    gone_on = pretrain(None, tmp_path / "begun", resume=True, **two)
    assert (gone_on.path, len(gone_on.rounds)) == (begun.path, 2)
    ours, theirs = gone_on.encoder().state_dict(), at_once.encoder().state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_folder_without_a_finished_run_has_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no encoder"):
        PretrainingRun(tmp_path).encoder()
