"""Arguments of the Python functions become words of the command line; runs are read by their folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedgen
import fedssl
from fedcore.cli.python_api import Run, words_of
from fedcore.config.recipe import read_recipe
from fedcore.config.stages import stage_of
from fedcore.errors import InputError
from fedssl.methods.byol import BYOL


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"seed": 3, "rounds": {"count": 5, "per_round": None}}, ["seed=3", "rounds.count=5", "rounds.per_round=null"]),
        ({"rounds.count": np.int64(5), "visit.keep_optimizer": True}, ["rounds.count=5", "visit.keep_optimizer=true"]),
        ({"data": {"size": (40, 32), "manifest": Path("a b.csv")}}, ["data.size=[40, 32]", "data.manifest=a b.csv"]),
        ({"pretrained": Run(Path("enc"))}, ["pretrained=enc"]),
        ({"method": BYOL}, ["method=fedssl.methods.byol.BYOL"]),
        (
            {"method": {"class_path": BYOL, "init_args": {"hidden_dim": 8}}},
            ['method={"class_path": "fedssl.methods.byol.BYOL", "init_args": {"hidden_dim": 8}}'],
        ),
        ({"method": {"init_args": {"optimizer": {"init_args": {"lr": 1e-5}}}}},
         ["method.init_args.optimizer.init_args.lr=1e-05"]),
    ],
)  # fmt: skip
def test_overrides_are_words_of_the_command_line(overrides: dict[str, Any], words: list[str]) -> None:
    assert words_of(overrides) == [f"--{word}" for word in words]


def test_the_parser_reads_the_values_that_were_given() -> None:
    overrides: dict[str, Any] = {
        "method": {"class_path": BYOL, "init_args": {"hidden_dim": 24, "optimizer": {"class_path": "torch.optim.SGD",
                                                                                  "init_args": {"lr": 1e-5}}}},
        "exchange": None, "loggers": ("csv", "tensorboard"), "data": {"size": [40, 32], "manifest": "5"}, "seed": 7,
    }  # fmt: skip
    recipe = read_recipe(stage_of("pretrain"), "pretrain", ["moco_shared_bank", *words_of(overrides)]).config
    assert recipe.method.class_path == "fedssl.methods.byol.BYOL"
    assert (recipe.method.init_args.hidden_dim, recipe.method.init_args.optimizer.init_args.lr) == (24, 1e-5)
    assert (recipe.exchange, recipe.loggers, recipe.data.size, recipe.data.manifest, recipe.seed) == (
        None, ("csv", "tensorboard"), (40, 32), "5", 7,
    )  # fmt: skip


class InThisModule:
    pass


def test_what_no_recipe_can_hold_is_an_input_error() -> None:
    class Local:
        pass

    InThisModule.__module__, kept = "__main__", InThisModule.__module__
    try:
        for kind in (InThisModule, Local):
            with pytest.raises(InputError, match="defined in a notebook or a function"):
                words_of({"method": kind})
    finally:
        InThisModule.__module__ = kept
    with pytest.raises(InputError, match=r"visit must be a value that a recipe can hold .* got object"):
        words_of({"visit": object()})
    for key in ("help", "print_config", "config", "trust"):
        with pytest.raises(InputError, match=f"'{key}' is an option of the command line"):
            words_of({key: True})
    with pytest.raises(InputError, match=r"'method\.help' is an option of the command line"):
        words_of({"method": {"help": "fedssl.methods.byol.BYOL"}})


def test_a_name_is_never_an_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must not begin with '-', got '--help'"):
        fedssl.pretrain("--help", out=tmp_path / "run")
    with pytest.raises(InputError, match=r"must not begin with '-', got '--help'"):
        fedgen.sample("--help", tmp_path / "set")


def test_wrong_input_raises_what_the_command_prints_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown option 'rounds.cuont' \(did you mean 'rounds.count'\?\)"):
        fedssl.pretrain("simclr", out=tmp_path / "run", rounds={"cuont": 1})
    with pytest.raises(InputError, match=r"absent\.csv"):
        fedssl.pretrain("simclr", out=tmp_path / "run", manifest=tmp_path / "absent.csv")
    with pytest.raises(InputError, match="simcrl"):
        fedssl.pretrain("simcrl", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_scores_are_the_scores_file_or_else_the_last_evaluation(tmp_path: Path) -> None:
    lines = [{"round": 0, "evaluation": {"a": {"knn": 0.5}}}, {"round": 1, "evaluation": {}}]
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run(tmp_path)
    assert (run.rounds, run.scores) == (lines, {"a": {"knn": 0.5}})
    (tmp_path / "scores.json").write_text('{"pooled": {"auroc": 0.75}}')
    assert run.scores == {"pooled": {"auroc": 0.75}}
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(InputError, match=r"scores\.json"):
        _ = run.scores


def test_importing_the_packages_imports_nothing_heavy() -> None:
    code = (
        "import sys, fedcore, fedssl, fedgen, fedtune\n"
        "heavy = {'torch', 'monai', 'numpy', 'lightly', 'jsonargparse', 'pytorch_lightning'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["fedssl", "fedtune", "fedgen"])
def test_a_package_offers_its_functions_and_nothing_else(package: str) -> None:
    module = __import__(package)
    assert all(callable(getattr(module, name)) for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        module.pretrian  # noqa: B018
