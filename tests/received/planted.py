"""Runs and pipelines that name code of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.files.checksums import write_sums
from tests.runs import code_of

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


KEY = {"pretrain": "method", "finetune": "classifier", "segment": "segmenter", "generate": "generator"}


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


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
