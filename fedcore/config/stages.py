"""Stages: the commands that train from a recipe.

A stage is a function with a parameter `run`; its signature is the schema of its recipes. Its module also has a function
`task_of`, which makes a task (`fedcore.algorithms.task`) from what a recipe builds. Its package has a module `serve`.
Stages are import paths: nothing heavy is imported before it is needed, and fedcore depends on no method or task.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

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


QUERIES = {
    "probe": "fedssl.evaluation.command:probe_at",
    "evaluate": "fedtune.evaluation.command:evaluate_at",
    "generate audit": "fedgen.auditing.command:audit_at",
}
"""Commands that ask the sites of a finished run: functions of a transport and of the command's words."""


def stage_in(words: Sequence[str]) -> str | None:
    """The stage that a command line starts with, if any."""
    return next((name for name in STAGES if list(words[: len(name.split())]) == name.split()), None)


def stage_of(name: str) -> Callable[..., Any]:
    """The function of a stage; its signature is the schema of its recipes."""
    return load_function(STAGES[name][0])


def task_maker(name: str) -> Callable[..., Any]:
    """`task_of` of a stage: from the arguments that a recipe builds to the task that server and sites share."""
    return load_function(f"{STAGES[name][0].partition(':')[0]}:task_of")


def server_of(name: str) -> Callable[..., Any]:
    """`serve` of a stage: the same training at a server that opens no image."""
    return load_function(f"{STAGES[name][0].partition(':')[0].rpartition('.')[0]}.serve:serve")


def load_function(path: str) -> Callable[..., Any]:
    """Of an import path `module:function`."""
    module, function = path.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded
