"""`fedpretrain evaluate RUN`: the scores of a fine-tuned run, on its own or on other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.algorithms.base import FedAvg, Visitor, share_of
from fedcore.config.recipe import read_recipe
from fedcore.data.dataset import Cohort, Images, relabelled
from fedcore.data.findings import with_findings
from fedcore.errors import InputError
from fedcore.messages.request import EVALUATE
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import SEGMENTER, about_of, trained
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.server.sites import Sites
from fedcore.site.allowed import require_allowed
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.simulation import agreed, simulate
from fedtune.classification.finetuning import FineTuning, finetune, labelled_tests
from fedtune.evaluation import segmentation as evaluate_masks
from fedtune.evaluation.classification import Evaluation, evaluate, require_tests
from fedtune.evaluation.native_grid import Files
from fedtune.evaluation.scores_file import show
from fedtune.evaluation.segmentation import Overlaps, unit_of
from fedtune.segmentation import training as segment

USAGE = """usage: fedpretrain evaluate RUN [--data.manifest other.csv] [--KEY VALUE ...]

Scores of a finished finetune or segment run per site and pooled, on its own test images or on others.
--native true measures masks on the grid of their files instead of that of data.size."""


def command(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(USAGE)
        return 0
    run = RunFolder(Path(arguments[0]))
    found = evaluated(run, arguments[1:])
    if isinstance(found, Overlaps):
        evaluate_masks.show(found)
    else:
        show(found, run.about()["classes"])
    return 0


def evaluated(run: RunFolder, overrides: Sequence[str] = ()) -> Evaluation | Overlaps:
    """The scores of a finished finetune or segment run, its recipe changed by `overrides` as in the command.

    Raises:
        InputError: There is no such run, or the images do not fit its model.
    """
    kind = run.about().get("command", "no run")
    run.require_own()
    if kind not in ("finetune", "segment"):
        raise InputError(
            f"evaluate takes a finetune or segment run, {run.path} holds {kind}; the report shows a pretraining run's "
            "probe"
        )
    run.finished()
    return (_classes if kind == "finetune" else _masks)(run, overrides)


def _classes(run: RunFolder, overrides: Sequence[str]) -> Evaluation:
    asked = _asked(finetune, run, overrides)
    cohort = _as_trained(run, load(asked["data"]))
    agreement = agreed(cohort)
    task = FineTuning(
        asked["algorithm"] or FedAvg(), asked["visit"], asked["encoder"], asked["classifier"], None, 1.0,
        asked["by_patient"], asked["ordinal"], asked["seed"],
    )  # fmt: skip
    module = trained(run, lambda: task.module(agreement))
    local = LocalTrainer(module, share_of(task.algorithm, module), task.visit)
    words = task.words(agreement, module)
    sites = _sites(run, local, words, labelled_tests(cohort), asked["policy"])
    grades = task.grades(agreement, module)
    return evaluate(sites, local.shared(), asked["seed"], asked["policy"], grades, asked["by_patient"])


def _masks(run: RunFolder, overrides: Sequence[str]) -> Overlaps:
    asked, structures = _asked(segment.segment, run, overrides), about_of(run, "structures")["structures"]
    cohort = load(asked["data"])
    tests = segment.with_masks(cohort, "test")
    if tests and (found := segment.structures_of(tests, {})) > structures:
        raise InputError(f"the segmenter knows structures up to {structures - 1}, the masks have {found - 1}")
    files = Files.of(asked["data"], cohort) if asked["native"] else None
    task = segment.Segmentation(
        asked["algorithm"] or FedAvg(), asked["visit"], asked["network"], asked["segmenter"], None, 1.0,
        asked["tolerance"], files, asked["hd95_missed"], asked["seed"],
    )  # fmt: skip
    agreement = agreed(cohort, structures)
    module = trained(run, lambda: task.module(agreement), SEGMENTER)
    local = LocalTrainer(module, share_of(task.algorithm, module), task.visit)
    sites = _sites(run, local, task.words(agreement, module), tests, asked["policy"], "test images with masks")
    grid = segment.grid_of(files, cohort)
    how = (asked["seed"], asked["policy"], grid, unit_of(tests), asked["hd95_missed"])
    return evaluate_masks.evaluate_masks(sites, local.shared(), *how)


def _asked(stage: Callable[..., None], run: RunFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's recipe with what overrides it."""
    return read_recipe(stage, "evaluate", [str(run.path / "recipe.yaml"), *overrides]).build()


def _sites(
    run: RunFolder, local: LocalTrainer, words: Mapping[str, Visitor], test: Mapping[str, Images], policy: Policy,
    what: str = "labelled test images",
) -> Sites:  # fmt: skip
    """What a site keeps to itself (all of it, where sites train alone) is used at that site again."""
    require_tests(test, policy, what)
    require_allowed(policy, {EVALUATE: words[EVALUATE]}, local.levels)
    simulation = simulate({}, local, words, test=test, policy=policy, folder=run.path / "sites", recipe=run.digest)
    sites = Sites.of(simulation, run.name, record=run.path / ANSWERS)
    sites.counted = run.counted()
    return sites


def _as_trained(run: RunFolder, cohort: Cohort) -> Cohort:
    """The images with the run's classes, matched by name; they may lack some.

    Raises:
        InputError: They have others.
    """
    about = run.about()
    trained = about.get("classes", [])
    if about.get("several_findings"):
        return with_findings(cohort, trained)
    if strange := [name for name in cohort.classes if name not in trained]:
        raise InputError(
            f"the classifier knows the classes {trained}, the images have {list(cohort.classes)}; "
            f"rename {strange[0]!r} in the manifest, or remove its label"
        )
    return relabelled(cohort, trained)
