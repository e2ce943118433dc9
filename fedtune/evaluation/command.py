"""`fedpretrain evaluate RUN`: the scores of a fine-tuned run, on its own or on other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.algorithms.base import Visitor
from fedcore.algorithms.properties import share_of
from fedcore.config.recipe import read_recipe
from fedcore.config.shared_recipe import SharedRecipe
from fedcore.config.stages import stage_of, task_maker
from fedcore.data.cohort import Cohort, with_classes
from fedcore.data.dataset import Images
from fedcore.data.findings import with_findings
from fedcore.errors import InputError
from fedcore.messages.request import EVALUATE
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import SEGMENTER, about_of, trained
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.server.begin import reopen
from fedcore.server.sites import Sites
from fedcore.site.allowed import require_allowed
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.base import Transport
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import agreed, simulate
from fedtune.classification.finetuning import finetune, labelled_tests
from fedtune.classification.finetuning import task_of as classification_task
from fedtune.evaluation import segmentation
from fedtune.evaluation.classification import ClassificationScores, evaluate_classifier, require_tests
from fedtune.evaluation.native_grid import require_files
from fedtune.evaluation.scores_file import print_scores
from fedtune.evaluation.segmentation import SegmentationScores, distance_unit, evaluate_segmenter
from fedtune.segmentation.serve import unit_of
from fedtune.segmentation.training import scoring_grid, segment
from fedtune.segmentation.training import task_of as segmentation_task
from fedtune.segmentation.training_masks import count_mask_classes, with_masks

USAGE = """usage: fedpretrain evaluate RUN [--data.manifest other.csv] [--KEY VALUE ...]

Scores of a finished finetune or segment run, per site and pooled, on its own test images or on others.
--native_grid true scores masks on the grid of their files instead of that of data.size."""
_UNTRAINED = {"pretrained": None, "label_fraction": 1.0}
"""Settings of the training, whose files need not be there any more."""


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
    return (_evaluate_classifier if _stage(run) == "finetune" else _evaluate_segmenter)(run, overrides)


def _stage(run: RunFolder) -> str:
    """Of a finished run that can be evaluated."""
    stage = str(run.about().get("command", "no run"))
    run.require_own()
    if stage not in ("finetune", "segment"):
        raise InputError(
            f"evaluate takes a finetune or segment run, {run.path} holds {stage}; for the probe of a pretraining run "
            "see fedpretrain report"
        )
    run.finished()
    return stage


def _evaluate_classifier(run: RunFolder, overrides: Sequence[str]) -> ClassificationScores:
    settings = _settings(finetune, run, overrides)
    cohort = _with_classes_of(run, read_images(settings["data"]))
    agreement, policy, seed = agreed(cohort), settings["policy"], settings["seed"]
    task = classification_task(settings | _UNTRAINED)
    module = trained(run, lambda: task.module(agreement))
    local = LocalTrainer(module, share_of(task.algorithm, module), task.visit)
    sites = _sites(run, local, task.words(agreement, module), labelled_tests(cohort), policy, "labelled test images")
    return evaluate_classifier(
        sites, local.shared(), seed, policy, task.grades(agreement, module), settings["per_patient"]
    )


def _evaluate_segmenter(run: RunFolder, overrides: Sequence[str]) -> SegmentationScores:
    settings, num_classes = _settings(segment, run, overrides), about_of(run, "mask_classes")["mask_classes"]
    cohort, policy, seed = read_images(settings["data"]), settings["policy"], settings["seed"]
    tests = with_masks(cohort, "test")
    if tests and (found := count_mask_classes(tests, {})) > num_classes:
        raise InputError(f"the segmenter has structures up to {num_classes - 1}, the masks have {found - 1}")
    if settings["native_grid"]:
        require_files(settings["data"], cohort)
    task = segmentation_task(settings | _UNTRAINED)
    agreement = agreed(cohort, num_classes)
    module = trained(run, lambda: task.module(agreement), SEGMENTER)
    local = LocalTrainer(module, share_of(task.algorithm, module), task.visit)
    sites = _sites(run, local, task.words(agreement, module), tests, policy, "test images with masks")
    how = (scoring_grid(settings["native_grid"], cohort.size), distance_unit(tests), settings["hd95_missing"])
    return evaluate_segmenter(sites, local.shared(), seed, policy, *how)


def evaluate_at(transport: Transport, words: Sequence[str]) -> None:
    """As `command`, of a run whose sites are reached by `transport`."""
    run = RunFolder(Path(words[0]))
    stage = _stage(run)
    settings = _settings(stage_of(stage), run, words[1:]) | {"pretrained": None}
    text = (run.path / "recipe.yaml").read_text(encoding="utf-8")
    sites = reopen(run, transport, SharedRecipe.of(stage, text).digest)
    task, policy, seed = task_maker(stage)(settings), settings["policy"], settings["seed"]
    module = trained(run, lambda: task.module(sites.agreement), *([SEGMENTER] if stage == "segment" else []))
    weights = LocalTrainer(module, share_of(task.algorithm, module), task.visit).shared()
    if stage == "segment":
        grid = scoring_grid(settings["native_grid"], sites.agreement.size)
        how = (grid, unit_of(sites), settings["hd95_missing"])
        segmentation.print_scores(evaluate_segmenter(sites, weights, seed, policy, *how))
    else:
        grades = task.grades(sites.agreement, module)
        scores = evaluate_classifier(sites, weights, seed, policy, grades, settings["per_patient"])
        print_scores(scores, run.about()["classes"])


def _settings(stage: Callable[..., None], run: RunFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's recipe with the overrides."""
    return read_recipe(stage, "evaluate", [str(run.path / "recipe.yaml"), *overrides]).build()


def _sites(
    run: RunFolder, local: LocalTrainer, words: Mapping[str, Visitor], test: Mapping[str, Images], policy: Policy,
    what: str,
) -> Sites:  # fmt: skip
    """The sites; each is visited with its own weights, where a part of the model (or all of it) is not shared."""
    require_tests(test, policy, what)
    require_allowed(policy, {EVALUATE: words[EVALUATE]}, local)
    simulation = simulate({}, local, words, test=test, policy=policy, folder=run.path / "sites", recipe=run.digest)
    sites = Sites.of(simulation, run.name, run.digest, record=run.path / ANSWERS)
    sites.counted = run.counted()
    return sites


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
    return with_classes(cohort, known)
