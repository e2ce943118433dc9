"""Fine-tuning of a classifier at a server that opens no image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fedcore.data.labels import require_fraction
from fedcore.runs.folder import RunFolder
from fedcore.server.begin import begin
from fedcore.server.job import Job
from fedcore.transport.base import Transport
from fedtune.classification.build import target_classes
from fedtune.classification.classifier import Classifier
from fedtune.classification.finetuning import finish, task_of
from fedtune.evaluation.classification import require_counts_allowed
from fedtune.pretrained import preprocessing_notes
from fedtune.result import print_notes


def serve(run: RunFolder, transport: Transport, recipe: Mapping[str, Any]) -> None:
    """As `fedtune.classification.finetuning.finetune`.

    Args:
        run: Folder of the run.
        transport: The sites.
        recipe: The arguments of `finetune`.

    Raises:
        InputError: No site has labelled training or test images.
    """
    require_counts_allowed(recipe["policy"])
    require_fraction(recipe["label_fraction"])
    task = task_of(recipe)
    begun = begin(run, transport, task, "finetune", pretrained=task.encoder_folder is not None)
    begun.require_tests("labelled test images")
    module = cast(Classifier, begun.local.module)
    task.grades(begun.sites.agreement, module)
    settings = {"label_fraction": recipe["label_fraction"], "pretrained": recipe["pretrained"]}
    about = begun.about | {
        "label_fraction": recipe["label_fraction"], "classes": list(target_classes(module, begun.sites.agreement)),
        "multilabel": module.targets == "findings", "labelled_images": begun.training_images,
        "notes": print_notes(preprocessing_notes(task.encoder_folder, run.recipe, begun.sites.agreement.size)),
    }  # fmt: skip
    job = Job(task.algorithm, recipe["rounds"], None, recipe["loggers"], task.seed)
    sites = job.train_in(run, begun.local, transport, about, sites=begun.sites)
    finish(run, sites, begun.local, task, settings, recipe["policy"])
