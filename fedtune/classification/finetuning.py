"""`fedpretrain finetune`: several hospitals train a classifier, from an encoder or from random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Cohort, Images
from fedcore.data.describe import describe
from fedcore.data.findings import findings_of, several, with_findings
from fedcore.data.labels import labelled, require_fraction, require_trained
from fedcore.data.source import Data
from fedcore.errors import InputError, building
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import MODEL, own_parts, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import evaluate, require_classes, require_countable, require_tests
from fedtune.evaluation.kappa import grades_of
from fedtune.evaluation.scores_file import as_json, show
from fedtune.result import leave, noted
from fedtune.start import start_notes


def finetune(
    run: RunFolder,
    start: str | None = None,
    encoder: Callable[[int, int], Encoder] = ResNet,
    classifier: Callable[[Encoder, int], Classifier] = Classifier,
    label_fraction: float = 1.0,
    data: Data = Data(),
    algorithm: Algorithm | None = None,
    visit: Visit = Visit(batch_size=32),
    rounds: Rounds = Rounds(),
    policy: Policy = Policy(),
    by_patient: bool = False,
    ordinal: bool = False,
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",),
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Trains a classifier across hospitals, from a pretrained encoder or from random weights.

    Args:
        run: Folder of the run.
        start: A pretraining run or an encoder's folder; null starts from random weights.
        encoder: The encoder; must be the one that was pretrained.
        classifier: What is trained on it, frozen or not.
        label_fraction: Fraction of the patients of each class whose labels are used, in (0, 1]; labels of sites from
            `data.extra_manifests` cost nothing and are all used.
        data: The images.
        algorithm: How sites cooperate; null: fedcore.algorithms.fedavg.FedAvg.
        visit: Local training in one round.
        rounds: The schedule.
        policy: What sites agree to send.
        by_patient: Scores count patients, by the mean of the probabilities of their images, instead of images.
        ordinal: The classes are grades, ranked by the numbers in their names: linear and quadratic kappa are told too.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every generator.
        workers: Sites visited at the same time, each by a process of its own; several may share a GPU. 1: one after
            another in this process.
    """
    run.prepare()
    require_countable(policy)
    weights = find_encoder(Path(start)) if start else None
    loaded = load(data)
    module = build(loaded, encoder, classifier, seed, weights)
    classes = learned_of(module, loaded)
    grades = ranked(classes, module) if ordinal else []
    cohort = with_findings(loaded, classes) if module.targets == "findings" else loaded
    train, test = _tasks(cohort, label_fraction, seed, policy)
    if module.augment is not None:
        module.augment.flips(cohort.spatial_dims)
    require_trained(cohort.split("train"), test, module.targets, classes)
    require_classes(test, module.targets, len(classes), policy)
    job = Job(train=train, test=test, algorithm=algorithm or FedAvg(), visit=visit, rounds=rounds, policy=policy,
              loggers=loggers, seed=seed, workers=workers)  # fmt: skip
    about = describe(loaded) | {"command": "finetune", "label_fraction": label_fraction}
    about |= {"classes": list(classes), "several_findings": module.targets == "findings"}
    about["notes"] = [*about["notes"], *noted(start_notes(weights, run.recipe, loaded.size))]
    transport = job.train_in(run, module, about | {"labelled": {s: len(i) for s, i in train.items()}})
    save_classifier(run, module)
    found = evaluate(transport, seed, grades, by_patient)
    settings = {"label_fraction": label_fraction, "encoder": start, "by_patient": by_patient}
    owners = list(own_parts(transport.memories, transport.names()))
    leave(run, module, MODEL, settings | as_json(found, classes), owners)
    run.close("finished")
    show(found, classes)


def build(
    cohort: Cohort, encoder: Callable[[int, int], Encoder], classifier: Callable[[Encoder, int], Classifier],
    seed: int, weights: Path | None = None,
) -> Classifier:  # fmt: skip
    """The classifier for these images, its encoder from `weights` if given.

    Raises:
        InputError: There are no two classes and no finding, or images have several findings and the classifier learns
            one class each.
    """
    findings = findings_of(cohort.classes)

    def made(count: int) -> Classifier:
        with seeded(seed), building("the classifier or its encoder"):
            backbone = encoder(cohort.spatial_dims, cohort.channels)
            if weights:
                load_encoder(weights, backbone)
            return classifier(backbone, count)

    module = made(max(1, len(findings)))
    if module.targets == "findings":
        if not findings:
            raise InputError(
                f"a classifier of findings needs one, the images have {list(cohort.classes) or 'no labels'}; "
                "give the manifest a column 'label'"
            )
        return module
    if len(cohort.classes) < 2:
        raise InputError(
            f"a classifier needs at least 2 classes, the images have {list(cohort.classes) or 'no labels'}; "
            "give the manifest a column 'label'"
        )
    if several(cohort.classes):
        raise InputError(
            "the labels hold several findings an image, as in 'A|B', and the classifier takes one class an image; "
            "start from the recipe classify_multilabel, or set classifier.init_args.loss to "
            "fedtune.classification.losses.BinaryCrossEntropy"
        )
    return module if len(findings) == len(cohort.classes) else made(len(cohort.classes))


def learned_of(module: Classifier, cohort: Cohort) -> tuple[str, ...]:
    """What it learns to tell: findings or classes."""
    return findings_of(cohort.classes) if module.targets == "findings" else cohort.classes


def ranked(classes: Sequence[str], module: Classifier) -> list[int]:
    """The grades that the classes are (`fedtune.evaluation.kappa.grades_of`).

    Raises:
        InputErrors: Nothing ranks them.
        InputError: They are findings, of which an image may have several.
    """
    if module.targets == "findings":
        raise InputError("ordinal is for classes of which an image has one; findings are no grades, leave it away")
    return grades_of(classes)


def _tasks(cohort: Cohort, fraction: float, seed: int, policy: Policy) -> tuple[dict[str, Images], dict[str, Images]]:
    """Training images with labels that are given away, and all labelled test images, by site."""
    require_fraction(fraction)
    train = {
        site: labelled(images, 1.0 if site in cohort.extra_sites else fraction, seed)
        for site, images in cohort.split("train").items()
    }
    train = {site: images for site, images in train.items() if len(images)}
    if not train:
        raise InputError("no site has a labelled training image; give rows of the split 'train' a label")
    tests = labelled_tests(cohort)
    require_tests(tests, policy)
    return train, tests


def labelled_tests(cohort: Cohort) -> dict[str, Images]:
    tests = {
        site: images.take((images.labels >= 0).nonzero().flatten()) for site, images in cohort.split("test").items()
    }
    return {site: images for site, images in tests.items() if len(images)}
