"""Pretraining at a server that opens no image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedcore.runs.folder import RunFolder
from fedcore.server.begin import begin
from fedcore.server.job import Job
from fedcore.transport.base import Transport
from fedssl.pretraining import finish, periodic_evaluation, task_of


def serve(run: RunFolder, transport: Transport, recipe: Mapping[str, Any]) -> None:
    """As `fedssl.pretraining.pretrain`.

    Args:
        run: Folder of the run.
        transport: The sites.
        recipe: The arguments of `pretrain`.
    """
    task = task_of(recipe)
    begun = begin(run, transport, task, "pretrain")
    evaluation, notes = periodic_evaluation(recipe["probe"], recipe["policy"])
    about = begun.about | {"notes": notes}
    job = Job(task.algorithm, recipe["rounds"], evaluation, recipe["loggers"], task.seed)
    finish(run, job.train_in(run, begun.local, transport, about, sites=begun.sites), begun.local, task.seed)
