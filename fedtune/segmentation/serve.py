"""Training of a segmenter at a server that opens no image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fedcore.data.labels import require_fraction
from fedcore.errors import InputError
from fedcore.runs.folder import RunFolder
from fedcore.server.begin import begin
from fedcore.server.job import Job
from fedcore.server.sites import Sites
from fedcore.transport.base import Transport
from fedtune.evaluation.segmentation import require_sums_allowed
from fedtune.pretrained import preprocessing_notes
from fedtune.result import print_notes
from fedtune.segmentation.segmenter import Segmenter
from fedtune.segmentation.training import encoder_fraction, finish, scoring_grid, task_of


def serve(run: RunFolder, transport: Transport, recipe: Mapping[str, Any]) -> None:
    """As `fedtune.segmentation.training.segment`.

    Args:
        run: Folder of the run.
        transport: The sites.
        recipe: The arguments of `segment`.

    Raises:
        InputError: No site has training or test images with masks.
    """
    require_sums_allowed(recipe["policy"])
    require_fraction(recipe["label_fraction"])
    task = task_of(recipe)
    begun = begin(run, transport, task, "segment", pretrained=task.encoder_folder is not None)
    sites, size = begun.sites, begun.sites.agreement.size
    begun.require_tests("test images with masks")
    if sites.agreement.mask_classes < 2:
        raise InputError("the training masks have only background; number structures from 1 in the masks")
    network = cast(Segmenter, begun.local.module).network
    about = begun.about | {
        "label_fraction": recipe["label_fraction"], "mask_classes": sites.agreement.mask_classes,
        "pretrained_fraction": encoder_fraction(network) if task.encoder_folder else 0.0,
        "labelled_images": begun.training_images,
        "notes": print_notes(preprocessing_notes(task.encoder_folder, run.recipe, size)),
    }  # fmt: skip
    job = Job(task.algorithm, recipe["rounds"], None, recipe["loggers"], task.seed)
    sites = job.train_in(run, begun.local, transport, about, sites=sites)
    settings = {"label_fraction": recipe["label_fraction"], "pretrained": recipe["pretrained"]}
    grid, unit = scoring_grid(recipe["native_grid"], size), unit_of(sites)
    finish(run, sites, begun.local, task, settings, recipe["policy"], grid, unit)


def unit_of(sites: Sites) -> str:
    """Unit of distances in test images, see `fedtune.evaluation.segmentation.distance_unit`."""
    unknown, count = (sum(getattr(of, name) for of in sites.facts.values()) for name in ("without_spacing", "test"))
    return "mm" if not unknown else "pixels" if unknown == count else "mm or pixels"
