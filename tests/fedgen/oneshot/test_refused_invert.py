"""Runs and options that cannot be inverted are errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import InputError
from fedcore.files.writing import write_json
from fedcore.runs.classifiers import MODEL
from fedcore.runs.folder import RunFolder
from fedgen.oneshot.ensemble import TrainedClassifiers
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from tests.fedgen.oneshot.finetuned import finetuned
from tests.fedgen.oneshot.test_invert import QUICK
from tests.runs import seal


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
