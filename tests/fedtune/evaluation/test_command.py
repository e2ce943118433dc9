from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedcore.cli.main import main
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.files.writing import write_json
from fedcore.runs.folder import RunFolder
from fedtune.evaluation.command import USAGE, evaluate_run
from tests.runs import seal

RECIPE = """
encoder: {class_path: fedcore.models.resnet.ResNet, init_args: {depth: 10, stem: 8}}
classifier: {class_path: fedtune.classification.classifier.Classifier, init_args: {freeze_encoder: FREEZE}}
algorithm: {class_path: ALGORITHM}
data: {manifest: phantom, size: 32, phantom: {sites: 2, images_per_site: 24}}
visit: {batch_size: 8, accelerator: cpu}
rounds: {count: 2}
policy: {min_patients: 1}
"""

RunCommand = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """A command's exit code, and what it wrote to stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


SETTINGS = {
    "together": ("false", "fedcore.algorithms.fedavg.FedAvg"),
    "frozen": ("true", "fedcore.algorithms.fedavg.FedAvg"),
    "alone": ("false", "fedcore.algorithms.local_only.LocalOnly"),
}


@pytest.fixture(params=["together"])
def finished(request: pytest.FixtureRequest, tmp_path: Path, run_command: RunCommand) -> tuple[Path, str]:
    """A finetune run and the table it ended with."""
    recipe = tmp_path / "recipe.yaml"
    freeze, algorithm = SETTINGS[request.param]
    recipe.write_text(RECIPE.replace("FREEZE", freeze).replace("ALGORITHM", algorithm))
    code, out, err = run_command("finetune", recipe, "--out", tmp_path / "run")
    assert code == 0, err
    return tmp_path / "run", out.split("result:")[0]


@pytest.mark.parametrize("finished", SETTINGS, indirect=True)
def test_evaluate_reproduces_the_table_of_the_run(finished: tuple[Path, str], run_command: RunCommand) -> None:
    run, table = finished
    records = ("audit.jsonl", "answers.jsonl")  # which are added to
    kept = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name not in records}
    assert "hospital_1" in table
    assert "pooled" in table
    assert run_command("evaluate", run) == (0, table, "")
    assert {p: p.read_bytes() for p in kept} == kept
    code, other, err = run_command("evaluate", run, "--data.phantom.seed", 5, "--data.phantom.sites", 3)
    assert code == 0, err
    assert "hospital_3" in other
    assert run_command("evaluate", run, "--policy.max_level", "WEIGHTS")[0] == 2


def test_images_of_other_classes_are_an_error(finished: tuple[Path, str], run_command: RunCommand) -> None:
    run, _ = finished
    about = json.loads((run / "run.json").read_text()) | {"classes": ["cat", "dog"]}
    write_json(run / "run.json", about)
    seal(run)
    code, _, err = run_command("evaluate", run)
    assert code == 2
    assert "has the classes ['cat', 'dog'], the images have ['clear', 'ring'" in err
    assert "rename 'clear' in the manifest, or remove its label" in err


def test_images_that_lack_classes_are_scored_by_name(
    finished: tuple[Path, str], run_command: RunCommand, tmp_path: Path
) -> None:
    """Without the first class of the run the numbers of all others would differ."""
    run, _ = finished
    manifest = Phantoms(sites=1, images_per_site=48, seed=5).write(tmp_path / "new", 32)
    head, *lines = manifest.read_text().splitlines()
    place = head.split(",").index("label")
    classes = json.loads((run / "run.json").read_text())["classes"]
    scored = {}
    for name, kept in (("all", classes), ("some", classes[1:])):
        rows = [line for line in lines if line.split(",")[place] in kept]
        (manifest.parent / f"{name}.csv").write_text("\n".join([head, *rows]))
        scored[name] = evaluate_run(RunFolder(run), ["--data.manifest", str(manifest.parent / f"{name}.csv")])
    both = [found.counts["pooled"].confusion for found in scored.values()]
    assert torch.equal(both[0][1:], both[1][1:])
    assert not both[1][0].any()
    assert both[0][0].any()
    code, out, err = run_command("evaluate", run, "--data.manifest", manifest.parent / "some.csv")
    assert code == 0, err
    assert f"pooled: no test image of {classes[0]} is counted" in out


def test_ordinal_needs_grades(finished: tuple[Path, str], run_command: RunCommand) -> None:
    code, _, err = run_command("evaluate", finished[0], "--ordinal", "true")
    assert code == 2
    assert "'clear' has no number" in err


def test_a_missing_run_or_one_of_another_kind_is_an_error(run_command: RunCommand, tmp_path: Path) -> None:
    code, _, err = run_command("evaluate", tmp_path / "nowhere")
    assert code == 2
    assert "holds no run" in err
    write_json(tmp_path / "run.json", {"command": "pretrain"})
    code, _, err = run_command("evaluate", tmp_path)
    assert code == 2
    assert "evaluate takes a finetune or segment run" in err
    assert "holds pretrain" in err


def test_an_unfinished_run_is_an_error(finished: tuple[Path, str], run_command: RunCommand) -> None:
    run, _ = finished
    shutil.rmtree(run / "classifier")
    code, _, err = run_command("evaluate", run)
    assert code == 2
    assert "give a finished run" in err


def test_help(run_command: RunCommand) -> None:
    assert run_command("evaluate") == run_command("evaluate", "--help") == (0, USAGE + "\n", "")


@pytest.mark.parametrize(
    "algorithm",
    ["fedcore.algorithms.fedavg.FedAvg", "fedcore.algorithms.local_only.LocalOnly", "fedcore.algorithms.ditto.Ditto"],
)
def test_evaluate_reproduces_the_table_of_a_segmenter(algorithm: str, tmp_path: Path, run_command: RunCommand) -> None:
    small = ["--network.init_args.encoder.init_args.stem", "8", "--data.size", "32", "--data.phantom.sites", "2",
             "--data.phantom.images_per_site", "24", "--rounds.count", "2", "--policy.min_patients", "1"]  # fmt: skip
    code, ended, err = run_command("segment", "segment", *small, "--algorithm", algorithm, "--out", tmp_path / "run")
    assert code == 0, err
    code, again, err = run_command("evaluate", tmp_path / "run")
    assert code == 0, err
    assert again in ended
    assert run_command("evaluate", tmp_path / "run", "--policy.max_level", "WEIGHTS")[0] == 2
