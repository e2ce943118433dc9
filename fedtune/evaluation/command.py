"""`fedpretrain evaluate RUN`: the scores of a fine-tuned run, on its own or on other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import FedAvg, share_of
from fedcore.config.recipe import read_recipe
from fedcore.data.dataset import Cohort, Images, relabelled
from fedcore.data.findings import with_findings
from fedcore.errors import InputError
from fedcore.runs.classifiers import SEGMENTER, about_of, trained
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.in_process import InProcess
from fedtune.classification.finetuning import build_classifier, finetune, labelled_tests, ordinal_grades
from fedtune.evaluation import segmentation
from fedtune.evaluation.classification import ClassificationScores, evaluate_classifier
from fedtune.evaluation.native_grid import NativeFiles
from fedtune.evaluation.scores_file import print_scores
from fedtune.evaluation.segmentation import SegmentationScores, evaluate_segmenter
from fedtune.segmentation.training import build_segmenter, count_mask_classes, segment, with_masks

USAGE = """usage: fedpretrain evaluate RUN [--data.manifest other.csv] [--KEY VALUE ...]

Scores of a finished finetune or segment run, per site and pooled, on its own test images or on others.
--native_grid true scores masks on the grid of their files instead of that of data.size."""


def command(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(USAGE)
        return 0
    run = RunFolder(Path(arguments[0]))
    scores = evaluate_run(run, arguments[1:])
    if isinstance(scores, SegmentationScores):
        segmentation.print_scores(scores)
    else:
        print_scores(scores, run.about()["classes"])
    return 0


def evaluate_run(run: RunFolder, overrides: Sequence[str] = ()) -> ClassificationScores | SegmentationScores:
    """The scores of a finished finetune or segment run.

    Args:
        run: Folder of the run.
        overrides: Values in place of those of its recipe, as words of the command.

    Raises:
        InputError: There is no such run, or the images do not fit its model.
    """
    stage = run.about().get("command", "no run")
    run.require_own()
    if stage not in ("finetune", "segment"):
        raise InputError(
            f"evaluate takes a finetune or segment run, {run.path} holds {stage}; for the probe of a pretraining run "
            "see fedpretrain report"
        )
    run.finished()
    return (_evaluate_classifier if stage == "finetune" else _evaluate_segmenter)(run, overrides)


def _evaluate_classifier(run: RunFolder, overrides: Sequence[str]) -> ClassificationScores:
    settings = _settings(finetune, run, overrides)
    cohort = _with_classes_of(run, load(settings["data"]))
    parts = (settings["encoder"], settings["classifier"], settings["seed"])
    module = trained(run, lambda: build_classifier(cohort, *parts))
    sites = _sites(run, module, labelled_tests(cohort), settings)
    grades = ordinal_grades(cohort.classes, module) if settings["ordinal"] else []
    return evaluate_classifier(sites, settings["seed"], grades, settings["per_patient"])


def _evaluate_segmenter(run: RunFolder, overrides: Sequence[str]) -> SegmentationScores:
    settings, num_classes = _settings(segment, run, overrides), about_of(run, "mask_classes")["mask_classes"]
    cohort = load(settings["data"])
    tests = with_masks(cohort, "test")
    if tests and (found := count_mask_classes(tests, {})) > num_classes:
        raise InputError(f"the segmenter has structures up to {num_classes - 1}, the masks have {found - 1}")
    parts = (settings["network"], settings["segmenter"], settings["seed"])
    module = trained(run, lambda: build_segmenter(cohort, num_classes, *parts), SEGMENTER)
    sites = _sites(run, module, tests, settings)
    files = NativeFiles.of(settings["data"], cohort) if settings["native_grid"] else None
    how = (settings["tolerance"], settings["seed"], files, settings["hd95_missing"])
    return evaluate_segmenter(sites, num_classes, *how)


def _settings(stage: Callable[..., None], run: RunFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's recipe with the overrides."""
    return read_recipe(stage, "evaluate", [str(run.path / "recipe.yaml"), *overrides]).build()


def _sites(
    run: RunFolder, module: LightningModule, test: Mapping[str, Images], settings: Mapping[str, Any]
) -> InProcess:
    """The sites; each is visited with its own weights, where a part of the model (or all of it) is not shared."""
    local = LocalTrainer(module, share_of(settings["algorithm"] or FedAvg(), module), settings["visit"])
    return InProcess(
        test, local, test, settings["policy"], run.memories(), run.path / "sites", record=run.path / ANSWERS
    )


def _with_classes_of(run: RunFolder, cohort: Cohort) -> Cohort:
    """The images with the run's classes, matched by name; they may lack some.

    Raises:
        InputError: They have classes that the run has not.
    """
    about = run.about()
    known = about.get("classes", [])
    if about.get("multilabel"):
        return with_findings(cohort, known)
    if unknown := [name for name in cohort.classes if name not in known]:
        raise InputError(
            f"the classifier has the classes {known}, the images have {list(cohort.classes)}; "
            f"rename {unknown[0]!r} in the manifest, or remove its label"
        )
    return relabelled(cohort, known)
