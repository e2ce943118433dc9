"""Folders from others: no command runs code that they name, and a bomb ends with a clear error.

A canary module writes a file when it is imported.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.received.planted import COMMANDS, KEY, STRANGER, error_of, planted
from tests.runs import code_of

FORMS = {
    "class_path": "KEY: {class_path: canary_of_a_stranger.Net}",
    "text": "KEY: canary_of_a_stranger.Net",
    "callable in a class": "KEY: {init_args: {optimizer: canary_of_a_stranger.make}}",
    "class in a class": "KEY: {init_args: {encoder: canary_of_a_stranger.Net}}",
    "list": "visit: {callbacks: [canary_of_a_stranger.make]}",
    "group": "data: {class_path: canary_of_a_stranger.Net}",
    "value of a group": "data: {scaling: canary_of_a_stranger.make}",
    "another's import": "KEY: {class_path: fedcore.pipelines.run.shutil.rmtree}",
    "another file": "config: hostile.yaml",
    "quoted in an error": "KEY: {init_args: {zebra: \"class_path='canary_of_a_stranger.Net'\"}}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", COMMANDS)
def test_no_command_imports_what_a_run_names(
    kind: str, form: str, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted(kind, FORMS[form].replace("KEY", KEY[kind]))
    before = sorted(Path().rglob("*"))
    for at, command in enumerate(COMMANDS[kind] if form == "class_path" else COMMANDS[kind][:1]):
        error = error_of(command, capsys, run=run)
        assert not canary.exists(), command
        if at == 0 and STRANGER in FORMS[form] and form in ("class_path", "text", "list", "value of a group"):
            assert f"is code of the package '{STRANGER}', not of fedpretrain, and was not run" in error
            assert f"if you trust that package, add --trust {STRANGER}" in error
            assert "recipe.yaml" in error
    assert sorted(Path().rglob("*")) == before


def test_the_option_trust_runs_it(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = planted("finetune", f"encoder: {{class_path: {STRANGER}.Net}}\n")
    error_of("evaluate {run} --trust another_package", capsys, run=run)
    assert not canary.exists()
    error_of(f"evaluate {{run}} --trust {STRANGER} --rounds.count 0", capsys, run=run)
    assert canary.exists()


def test_a_class_on_the_command_line_is_run(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = planted("finetune", "seed: 1\n")
    error_of(f"evaluate {{run}} --encoder {STRANGER}.Net --rounds.count 0", capsys, run=run)
    assert canary.exists()


@pytest.mark.parametrize(
    "step",
    [
        f"{{do: finetune, encoder: {STRANGER}.Net}}",
        f"{{do: finetune, encoder: {STRANGER}.Net, trust: {STRANGER}}}",
        f"{{do: 'finetune --encoder {STRANGER}.Net --trust {STRANGER}'}}",
        f"{{do: '--trust {STRANGER} finetune', encoder: {STRANGER}.Net}}",
        "{do: finetune hostile.yaml}",
    ],
)
def test_a_pipeline_file_cannot_give_trust(step: str, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipeline.yaml").write_text(f"steps: {{tuned: {step}, broken: {{do: finetune, zebra: 1}}}}\n")
    error_of("run pipeline.yaml", capsys)
    assert not canary.exists()


def test_trust_given_to_a_pipeline_applies_to_its_steps(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipeline.yaml").write_text(
        f"steps: {{tuned: {{do: finetune, encoder: {STRANGER}.Net}}, broken: {{do: finetune, zebra: 1}}}}\n"
    )
    error = error_of(f"run pipeline.yaml --trust {STRANGER}", capsys)
    assert canary.exists()
    assert "1 error" in error
    assert "unknown option 'zebra'" in error


@pytest.mark.slow
def test_changed_weights_are_an_error(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    Path("image.npy").write_bytes(b"")
    np.save("image.npy", np.eye(16, dtype=np.float32))
    uses = {
        "pretrain/encoder/encoder": ["probe {pretrain}", "export {pretrain}",
                                     "finetune --pretrained {pretrain} --out new",
                                     "generate audit {generator} {set} --encoder {pretrain}"],
        "finetune/classifier/classifier": ["evaluate {finetune}", "predict {finetune} image.npy new",
                                           "export {finetune} --to onnx", "generate distil {finetune} new",
                                           "generate invert {finetune} new"],
        "segment/segmenter/segmenter": ["evaluate {segment}", "predict {segment} image.npy new",
                                        "export {segment} --to onnx"],
        "generator/generator/generator": ["generate sample {generator} new"],
    }  # fmt: skip
    for weights, commands in uses.items():
        file = Path("got") / f"{weights}.safetensors"
        whole = file.read_bytes()
        for damaged in (whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], whole[:-1], b"", None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            else:
                file.touch()
            for command in commands:
                assert "safetensors" in error_of(command, capsys, **runs)
        file.write_bytes(whole)
        (file.parent / "SHA256SUMS").unlink()
        assert "SHA256SUMS is missing" in error_of(commands[0], capsys, **runs)
    assert not Path("new").exists()


@pytest.mark.slow
def test_classes_named_in_an_audit_record_are_not_imported(
    runs: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs["set"] / "audit.json"
    record = json.loads(path.read_text())
    image = next(iter((runs["set"] / "images").iterdir())).name
    record |= {"copies": {image: ["hospital_1"]}, "objections": [], "passes": True}
    for words in (["--generator", f"{STRANGER}.Net"], ["--trust", STRANGER, "--generator", f"{STRANGER}.Net"]):
        record["options"]["overrides"] = words
        path.write_text(json.dumps(record))
        error_of("generate release {set} new --drop true", capsys, **runs)
    assert not canary.exists()
    assert not Path("new").exists()


EVERYWHERE = {
    "pretrain": ["probe {run}", "export {run}"],
    "finetune": ["evaluate {run}", "predict {run} image.npy new", "export {run} --to onnx",
                 "generate invert {run} new", "generate distil {run} new"],
    "segment": ["evaluate {run}", "predict {run} image.npy new", "export {run} --to onnx"],
    "generator": ["generate sample {run} new", "generate audit {run} {set}", "generate release {set} new"],
    "set": ["generate audit {generator} {run}", "generate release {run} new --drop true"],
}  # fmt: skip
"""Every command that takes a finished run or set of this kind."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERYWHERE)
def test_links_out_of_a_folder_are_an_error(
    kind: str, runs: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In place of a folder with its content, and as a new folder; files outside are not changed."""
    np.save("image.npy", np.eye(16, dtype=np.float32))
    if kind == "generator":  # a release reads the run that the audit names
        assert code_of(["generate", "audit", "got/generator", "got/set"]) == 0
    outside = Path("outside").absolute()
    inside = sorted(path for path in runs[kind].rglob("*") if path.is_dir() and path.name != "logs")
    for folder in (inside[0], inside[-1], runs[kind] / "sites" / "planted"):
        if there := folder.exists():
            folder.rename(outside)
        else:
            outside.mkdir()
            (outside / "server.safetensors").write_text("precious")
            folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(outside)
        before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
        for command in EVERYWHERE[kind]:
            error = error_of(command, capsys, run=runs[kind], **runs)
            assert "is a symbolic link" in error or "names a file outside of its folder" in error, (folder, command)
            assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
            assert not Path("new").exists()
        folder.unlink()
        outside.rename(folder) if there else shutil.rmtree(outside)
    assert not canary.exists()
