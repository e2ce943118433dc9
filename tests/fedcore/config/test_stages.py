"""Every stage makes its task from what its recipe builds."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from fedcore.algorithms.task import Task
from fedcore.config.recipe import read_recipe
from fedcore.config.stages import STAGES, stage_in, stage_of, task_maker

ARGUMENTS = {
    "pretrain": ["--probe.every", "3"],
    "finetune": ["--label_fraction", "0.5", "--per_patient", "true", "--ordinal", "true"],
    "segment": ["--label_fraction", "0.5", "--tolerance", "2.5", "--hd95_missing", "diagonal"],
    "generate train": ["--label_fraction", "0.5", "--condition_on_site", "false"],
}


def built(name: str, *words: str) -> dict[str, Any]:
    arguments = [*ARGUMENTS[name], "--seed", "7", "--visit.batch_size", "5", *words]
    return read_recipe(stage_of(name), name, arguments).build()


@pytest.mark.parametrize("name", STAGES)
def test_a_task_has_the_settings_of_its_recipe(name: str) -> None:
    recipe = built(name, "--algorithm", "fedcore.algorithms.fedbn.FedBN")
    task: Any = task_maker(name)(recipe)
    assert isinstance(task, Task)
    same = {field.name for field in fields(task)} & recipe.keys() - {"probe"}
    assert {key: getattr(task, key) for key in same} == {key: recipe[key] for key in same}
    assert same >= {"seed", "visit", "algorithm"} | ({*recipe} & {"label_fraction", "per_patient", "tolerance"})


@pytest.mark.parametrize("name", STAGES)
def test_without_an_algorithm_a_task_averages(name: str) -> None:
    assert type(task_maker(name)(built(name)).algorithm).__name__ == "FedAvg"


def test_masks_are_scored_on_the_grid_of_the_files_of_the_same_data() -> None:
    recipe = built("segment", "--native_grid", "true", "--data.manifest", "mine.csv")
    assert task_maker("segment")(recipe).native == recipe["data"]
    assert task_maker("segment")(recipe | {"native_grid": False}).native is None


def test_a_stage_is_found_by_the_first_words() -> None:
    assert stage_in(["generate", "train", "x"]) == "generate train"
    assert stage_in(["generate", "sample"]) is None
