"""`fedpretrain evaluate RUN`: the scores of a fine-tuned run, on its own or on other images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.algorithm import FedAvg, share_of
from fedcore.checkpoint import Checkpoint
from fedcore.classifiers import load_classifier
from fedcore.data.findings import with_findings
from fedcore.data.images import Cohort
from fedcore.errors import InputError
from fedcore.local import LocalTrainer
from fedcore.progress import load
from fedcore.recipe import read_recipe
from fedcore.run import RunFolder
from fedcore.transport import InProcess
from fedtune.evaluate import evaluate
from fedtune.finetune import build, finetune, labelled_tests
from fedtune.tell import show

USAGE = """usage: fedpretrain evaluate RUN [--data.manifest other.csv] [--KEY VALUE ...]

Scores of a finished finetune run per site and pooled, on its own test images or on others."""


def command(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    run = RunFolder(Path(arguments[0]))
    if run.about().get("command") != "finetune":
        found = run.about().get("command", "no run")
        raise InputError(
            f"evaluate takes a finetune run, {run.path} holds {found}; the report shows a pretraining run's probe"
        )
    recipe = read_recipe(finetune, "evaluate", [str(run.path / "recipe.yaml"), *arguments[1:]])
    asked = recipe.build()
    cohort = _as_trained(run, load(asked["data"]))
    module = build(cohort, asked["encoder"], asked["classifier"], asked["seed"])
    load_classifier(run, module)
    local = LocalTrainer(module, share_of(asked["algorithm"] or FedAvg(), module), asked["visit"])
    # What a site keeps to itself (all of it, where sites train alone) is used at that site again.
    memories, test = Checkpoint.open(run.path / "state"), labelled_tests(cohort)
    sites = InProcess(test, local, test, asked["policy"], memories, run.path / "sites")
    show(evaluate(sites, asked["seed"], asked["bootstrap"], cohort.classes, asked["by_patient"]), cohort.classes)
    return 0


def _as_trained(run: RunFolder, cohort: Cohort) -> Cohort:
    """The images with the run's classes; of findings they may lack some.

    Raises:
        InputError: They have others.
    """
    about = run.about()
    trained = about.get("classes", [])
    if about.get("several_findings"):
        return with_findings(cohort, trained)
    if list(cohort.classes) != trained:
        raise InputError(
            f"the classifier knows the classes {trained}, the images have {list(cohort.classes)}; "
            "the labels must be the same"
        )
    return cohort
