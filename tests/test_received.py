"""Folders from others: no command runs code that they name, and a bomb ends with a clear error.

A canary module writes a file when it is imported.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedcore.files.checksums import write_sums
from tests.runs import code_of, finished

STRANGER = "canary_of_a_stranger"
CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from fedcore.models.resnet import ResNet
class Net(ResNet): pass
def make(*words, **values): pass
"""
ABOUT = {"status": "finished", "size": [16, 16], "channels": 1, "sites": {"a": {"train": 2}}, "classes": ["x", "y"]}
COMMANDS = {
    "pretrain": ["probe {run}", "pretrain {run}/recipe.yaml --out new"],
    "finetune": [
        "evaluate {run}", "predict {run} . new", "export {run} --to onnx", "finetune {run}/recipe.yaml --out new",
        "generate audit {run} set", "generate invert {run} new", "generate distil {run} new",
    ],
    "segment": ["evaluate {run}", "predict {run} . new", "export {run} --to onnx", "segment {run}/recipe.yaml"],
    "generate": ["generate audit {run} set", "generate train {run}/recipe.yaml --out new"],
}  # fmt: skip
"""Commands that read the recipe of a run of each kind; the first one of a list reads every key of it."""
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
KEY = {"pretrain": "method", "finetune": "classifier", "segment": "segmenter", "generate": "generator"}
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that exists once the canary's code ran."""
    mark = tmp_path / "ran"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / f"{STRANGER}.py").write_text(CODE.format(mark=str(mark)))
    (tmp_path / "hostile.yaml").write_text(f"encoder: {STRANGER}.Net\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.chdir(tmp_path)
    yield mark
    sys.modules.pop(STRANGER, None)


def planted(kind: str, recipe: str | bytes) -> Path:
    """Writes what a command reads of a finished run of this kind before its weights."""
    folder = Path(kind)
    folder.mkdir(exist_ok=True)
    about = ABOUT | {"command": kind} | ({"mask_classes": 3} if kind == "segment" else {})
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "recipe.yaml").write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    (folder / "rounds.jsonl").touch()
    write_sums(folder, ["run.json", "recipe.yaml", "rounds.jsonl"])
    synthetic = Path("set")
    synthetic.mkdir(exist_ok=True)
    (synthetic / "image.png").write_bytes(b"image")
    (synthetic / "set.json").write_text("{}")
    (synthetic / "manifest.csv").write_text("image,site,split,label,site_style,mask\nimage.png,synthetic,train,,,\n")
    return folder


def error_of(command: str, capsys: pytest.CaptureFixture[str], **folders: Path) -> str:
    """The error that a command prints when it exits with 2."""
    capsys.readouterr()
    assert code_of(command.format(**folders).split()) == 2, command
    error = capsys.readouterr().err
    assert error.startswith("fedpretrain: ")
    return error


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "values with aliases expanded"),
        ("a: &a [*a]\n", "values with aliases expanded"),
        ("a: " + "[" * 70 + "]" * 70, "more than 64 levels"),
        ("a: " + "[" * 5000, "nesting depth"),
        (b"seed: \xff\xfe\n", ""),
        ("data: {manifest: \"" + BOMB.replace("\n", "\\n") + "\"}", ""),
        ("data: {manifest: '[" + "[" * 5000 + "'}", ""),
        ("seed: 12\n--- \nseed: 13\n", ""),
        ("!!python/object/apply:os.system ['true']", ""),
    ],
    ids=["aliases", "itself", "deep", "deeper", "no UTF-8", "aliases in a text", "deep in a text", "two", "object"],
)  # fmt: skip
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_recipe_that_is_a_bomb_is_an_error(
    kind: str, text: str | bytes, message: str, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planted(kind, text)
    for command in COMMANDS[kind] if text is BOMB else COMMANDS[kind][:1]:
        assert message in error_of(command, capsys, run=run)
    assert code_of(["report", str(run)]) == 0


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "\x00", '{"sites": 3}', ""])
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_damaged_run_json_is_an_error(kind: str, text: str, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = planted(kind, "seed: 1\n")
    (run / "run.json").write_text(text)
    for command in COMMANDS[kind]:
        if "recipe.yaml" not in command:
            error_of(command, capsys, run=run)


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_a_seed_out_of_range_is_an_error(seed: int, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("finetune --seed", "finetune --data.seed", "generate sample run set --seed"):
        assert "must lie in 0..2^63-1" in error_of(f"{command} {seed}", capsys)


def test_images_of_terabytes_are_an_error(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at most 1,073,741,824 pixels" in error_of("finetune --data.size 1000000", capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return finished(tmp_path_factory.mktemp("made"))


@pytest.fixture
def runs(made: dict[str, Path], canary: Path) -> dict[str, Path]:
    """Copies of finished runs that a test may change."""
    return {kind: Path(shutil.copytree(path, Path("got") / kind)) for kind, path in made.items()}


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


@pytest.mark.slow
@pytest.mark.parametrize("text", ["[" * 100_000, BOMB, '{"a": ' * 100_000, "3", "\x00"])
def test_records_of_a_set_that_are_bombs_are_errors(
    runs: dict[str, Path], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [
        "generate release {set} new --drop true",
        "generate audit {generator} {set}",
        "generate sample {generator} {set} --resume true",
        "generate distil {finetune} new --synthetic {set}",
    ]
    for name in ("audit.json", "set.json"):
        whole = (runs["set"] / name).read_text()
        (runs["set"] / name).write_text(text)
        for command in commands[: 1 if name == "audit.json" else None]:
            assert name in (error := error_of(command, capsys, **runs)) or "holds no synthetic set" in error, command
            assert not Path("new").exists()
        (runs["set"] / name).write_text(whole)


@pytest.mark.parametrize(
    "text", [BOMB, "steps: " + "[" * 5000, "steps: {a: &a [*a]}", "steps: {a: {do: [[[]]]}}", "\x00", "[]"]
)
def test_a_pipeline_that_is_a_bomb_is_an_error(text: str, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipeline.yaml").write_text(text)
    before = sorted(Path().rglob("*"))
    error_of("run pipeline.yaml", capsys)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_arrays_that_unpack_to_gigabytes_are_not_read(runs: dict[str, Path]) -> None:
    kept = [path for run in runs.values() for path in run.glob("sites/*/*.npz")]
    galleries = {"augmented_views.npz", "feature_gallery.npz", "segmentation_gallery.npz", "generator_samples.npz"}
    assert {path.name for path in kept} >= galleries
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**30,)})
    for path in kept:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        with zipfile.ZipFile("bomb", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:  # in all above the limit, and each header claims even more
                archive.writestr(name, header.getvalue() + bytes((300 << 20) // len(names)))
        shutil.move("bomb", path)
    for kind in ("pretrain", "segment", "generator"):
        assert code_of(["report", str(runs[kind])]) == 0
        assert "cannot be read" in (runs[kind] / "report.html").read_text()


@pytest.mark.slow
def test_the_recipe_of_a_run_is_within_the_limits_of_its_readers(runs: dict[str, Path]) -> None:
    """It is accepted without --trust."""
    for kind in ("pretrain", "finetune", "segment"):
        text = (runs[kind] / "recipe.yaml").read_text()
        assert yaml.safe_load(text)
        assert code_of(["probe" if kind == "pretrain" else "evaluate", str(runs[kind])]) == 0
