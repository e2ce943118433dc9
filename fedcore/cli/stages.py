"""Stages: the commands that train from a recipe, and how one is run.

A stage is a function with a parameter `run`; its signature is the schema of its recipes. Stages are import paths:
nothing heavy is imported before it is needed, and fedcore depends on no method or task.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedcore.config.recipe import Recipe

STAGES = {
    "pretrain": ("fedssl.pretraining:pretrain", "pretrain an encoder on unlabelled images of several hospitals"),
    "finetune": (
        "fedtune.classification.finetuning:finetune",
        "train a classifier, from an encoder or from random initialisation",
    ),
    "segment": (
        "fedtune.segmentation.training:segment",
        "train a segmenter, from an encoder or from random initialisation",
    ),
    "generate train": ("fedgen.training:train", "train a generator of synthetic images"),
}


def run_stage(name: str, arguments: Sequence[str]) -> Recipe:
    """Parses the recipe with its overrides, builds and runs the stage; returns the recipe.

    Args:
        name: The stage, of `STAGES`.
        arguments: As on the command line: a recipe, then `--key value` or `--key=value`.

    Raises:
        InputError: Recipe, images or folder must be corrected; nothing was trained.
    """
    from fedcore.config.recipe import read_recipe
    from fedcore.runs.folder import RunFolder

    stage = stage_of(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        recipe = read_recipe(stage, name, arguments)
        built = recipe.build()
        with RunFolder(recipe.out, recipe.text, recipe.resume) as run:
            stage(run=run, **built)
    return recipe


def stage_in(words: Sequence[str]) -> str | None:
    """The stage that a command line starts with, if any."""
    return next((name for name in STAGES if list(words[: len(name.split())]) == name.split()), None)


def stage_of(name: str) -> Callable[..., Any]:
    """The function of a stage; its signature is the schema of its recipes."""
    return load_function(STAGES[name][0])


def load_function(path: str) -> Callable[..., Any]:
    """Of an import path `module:function`."""
    module, function = path.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded
