from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.cli.main import main
from fedcore.files.writing import write_json
from fedcore.runs.folder import RunFolder
from fedssl.evaluation.command import USAGE, pooled, probe

RECIPE = """
encoder: {class_path: fedcore.models.resnet.ResNet, init_args: {depth: 10, stem: 8}}
method: {class_path: fedssl.methods.simclr.SimCLR, init_args: {hidden_dim: 16, projection_dim: 8}}
algorithm: {class_path: ALGORITHM}
policy: {min_patients: 1}
data: {manifest: phantom, size: 32, phantom: {sites: 2, images_per_site: 40}}
visit: {batch_size: 16, accelerator: cpu}
rounds: {count: 2}
"""

RunCommand = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Runs a command and returns its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture(params=["fedcore.algorithms.fedavg.FedAvg"])
def finished(request: pytest.FixtureRequest, tmp_path: Path, run_command: RunCommand) -> Path:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("ALGORITHM", request.param))
    code, _, err = run_command("pretrain", recipe, "--out", tmp_path / "run")
    assert code == 0, err
    return tmp_path / "run"


OWN = ["fedcore.algorithms.local_only.LocalOnly", "fedcore.algorithms.fedbn.FedBN"]


@pytest.mark.parametrize(
    "finished",
    ["fedcore.algorithms.fedavg.FedAvg", "fedcore.algorithms.ditto.Ditto", "fedssl.federation.fedema.FedEMA", *OWN],
    indirect=True,
)
def test_the_scores_equal_those_of_the_runs_last_evaluation(finished: Path) -> None:
    records = ("audit.jsonl", "answers.jsonl")  # which are added to
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name not in records}
    table = probe(finished)
    for site, metrics in RunFolder(finished).rounds()[-1]["evaluation"].items():
        assert {k: table[site][k] for k in metrics} == metrics
        assert 0 <= table[site]["linear"] <= 1
    assert {p: p.read_bytes() for p in before} == before


def test_other_images_can_be_probed(finished: Path, run_command: RunCommand) -> None:
    code, out, err = run_command("probe", finished, "--data.phantom.seed", 5, "--data.phantom.sites", 3)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["site", "hospital_1", "hospital_2", "hospital_3", "all"]
    images, *cells = out.splitlines()[-1].split()[1:]
    assert int(images) == 30
    assert [float(cell) >= 0 for cell in cells] == [True] * 4


def test_a_policy_without_metrics_is_an_error(finished: Path, run_command: RunCommand) -> None:
    code, _, err = run_command("probe", finished, "--policy.metrics", "false")
    assert code == 2
    assert "a probe needs metrics of the sites, which are STATISTICS" in err


@pytest.mark.parametrize("finished", OWN, indirect=True)
def test_a_site_that_did_not_train_is_an_error(finished: Path, run_command: RunCommand) -> None:
    code, _, err = run_command("probe", finished, "--data.phantom.sites", 3)
    assert code == 2
    assert "has its own encoder, but 'hospital_3' has none; sites that have one: hospital_1, hospital_2" in err


def test_the_mean_weights_sites_by_their_images() -> None:
    table = {"a": {"knn": 1.0, "images": 30.0}, "b": {"knn": 0.5, "images": 10.0}, "c": {"feature_std": 1.0}}
    assert pooled(table, "knn") == 0.875
    table["a"] |= {"feature_std": 0.2, "training_images": 10.0}
    table["c"] |= {"training_images": 30.0}
    assert pooled(table, "feature_std") == pytest.approx(0.8)
    assert pooled(table, "linear") is None


def test_a_folder_of_another_kind_or_an_unfinished_run_is_an_error(
    run_command: RunCommand, tmp_path: Path, finished: Path
) -> None:
    code, _, err = run_command("probe", tmp_path / "nowhere")
    assert (code, "holds no run" in err) == (2, True)
    (finished / "encoder/encoder.safetensors").unlink()
    code, _, err = run_command("probe", finished)
    assert code == 2
    assert "holds no encoder" in err
    write_json(tmp_path / "run.json", {"command": "finetune"})
    code, _, err = run_command("probe", tmp_path)
    assert code == 2
    assert "probe takes a pretrain run" in err
    assert "holds finetune" in err


def test_help_is_the_usage(run_command: RunCommand) -> None:
    assert run_command("probe") == run_command("probe", "--help") == (0, USAGE + "\n", "")
