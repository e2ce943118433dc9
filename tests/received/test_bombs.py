"""Files that are huge once unpacked, and other values out of range, are errors."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.received.planted import BOMB, COMMANDS, error_of, planted
from tests.runs import code_of


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
