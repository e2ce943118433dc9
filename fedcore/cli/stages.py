"""Runs a stage (`fedcore.config.stages`) from its arguments on the command line."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedcore.config.stages import stage_of

if TYPE_CHECKING:
    from fedcore.config.recipe import Recipe


def run_stage(name: str, arguments: Sequence[str]) -> Recipe:
    """Parses the recipe with its overrides, builds and runs the stage; returns the recipe.

    Args:
        name: The stage, of `fedcore.config.stages.STAGES`.
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
