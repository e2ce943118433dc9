"""Training of a generator at a server that opens no image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedcore.data.labels import require_fraction
from fedcore.messages.reveals import Reveals
from fedcore.runs.folder import RunFolder
from fedcore.server.begin import begin
from fedcore.server.job import Job
from fedcore.transport.base import Transport
from fedgen.synthetic.image_files import require_encodable
from fedgen.training import finish, task_of


def serve(run: RunFolder, transport: Transport, recipe: Mapping[str, Any]) -> None:
    """As `fedgen.training.train`.

    Args:
        run: Folder of the run.
        transport: The sites.
        recipe: The arguments of `train`.
    """
    require_fraction(recipe["label_fraction"])
    task = task_of(recipe)
    begun = begin(run, transport, task, "generate")
    agreement = begun.sites.agreement
    require_encodable((agreement.channels, *agreement.size))
    about = begun.about | {"label_fraction": recipe["label_fraction"]}
    job = Job(task.algorithm, recipe["rounds"], None, recipe["loggers"], task.seed)
    sites = job.train_in(run, begun.local, transport, about, sites=begun.sites)
    finish(run, sites, begun.local, task.seed, recipe["policy"].max_level >= Reveals.STATISTICS)
