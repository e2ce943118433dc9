"""`fedpretrain evaluate RUN`: the scores of a fine-tuned run, on its own or on other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
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
from fedtune.classification.finetuning import build, finetune, labelled_tests, ranked
from fedtune.evaluation import segmentation as evaluate_masks
from fedtune.evaluation.classification import Evaluation, evaluate
from fedtune.evaluation.native_grid import Files
from fedtune.evaluation.scores_file import show
from fedtune.evaluation.segmentation import Overlaps
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
    module = trained(run, lambda: build(cohort, asked["encoder"], asked["classifier"], asked["seed"]))
    sites = _sites(run, module, labelled_tests(cohort), asked)
    grades = ranked(cohort.classes, module) if asked["ordinal"] else []
    return evaluate(sites, asked["seed"], grades, asked["by_patient"])


def _masks(run: RunFolder, overrides: Sequence[str]) -> Overlaps:
    asked, structures = _asked(segment.segment, run, overrides), about_of(run, "structures")["structures"]
    cohort = load(asked["data"])
    tests = segment.with_masks(cohort, "test")
    if tests and (found := segment.structures_of(tests, {})) > structures:
        raise InputError(f"the segmenter knows structures up to {structures - 1}, the masks have {found - 1}")
    kind = (asked["network"], asked["segmenter"], asked["seed"])
    module = trained(run, lambda: segment.build(cohort, structures, *kind), SEGMENTER)
    sites = _sites(run, module, tests, asked)
    files = Files.of(asked["data"], cohort) if asked["native"] else None
    how = (asked["tolerance"], asked["seed"], files, asked["hd95_missed"])
    return evaluate_masks.evaluate_masks(sites, structures, *how)


def _asked(stage: Callable[..., None], run: RunFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's recipe with what overrides it."""
    return read_recipe(stage, "evaluate", [str(run.path / "recipe.yaml"), *overrides]).build()


def _sites(run: RunFolder, module: LightningModule, test: Mapping[str, Images], asked: Mapping[str, Any]) -> InProcess:
    """What a site keeps to itself (all of it, where sites train alone) is used at that site again."""
    local = LocalTrainer(module, share_of(asked["algorithm"] or FedAvg(), module), asked["visit"])
    return InProcess(test, local, test, asked["policy"], run.memories(), run.path / "sites", record=run.path / ANSWERS)


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
