"""`fedpretrain finetune`: several hospitals train a classifier, from an encoder or from random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from fedcore.algorithms.base import Algorithm, FedAvg
from fedcore.data.dataset import Cohort, Images
from fedcore.data.describe import describe
from fedcore.data.findings import findings_of, several, with_findings
from fedcore.data.labels import labelled, require_fraction, require_trained
from fedcore.data.source import Data
from fedcore.errors import InputError, building
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.models.encoders import Encoder, ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import MODEL, own_parts, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import (
    evaluate_classifier,
    require_classes,
    require_counts_allowed,
    require_tests,
)
from fedtune.evaluation.kappa import grade_order
from fedtune.evaluation.scores_file import print_scores, to_json
from fedtune.pretrained import preprocessing_notes
from fedtune.result import print_notes, save_result


def finetune(
    run: RunFolder,
    pretrained: str | None = None,
    encoder: Callable[[int, int], Encoder] = ResNet,
    classifier: Callable[[Encoder, int], Classifier] = Classifier,
    label_fraction: float = 1.0,
    data: Data = Data(),
    algorithm: Algorithm | None = None,
    visit: Visit = Visit(batch_size=32),
    rounds: Rounds = Rounds(),
    policy: Policy = Policy(),
    per_patient: bool = False,
    ordinal: bool = False,
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",),
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Trains a classifier across hospitals, from a pretrained encoder or from random weights.

    Args:
        run: Folder of the run.
        pretrained: A pretraining run or an encoder's folder; null: random weights.
        encoder: The encoder, with the same settings as in pretraining.
        classifier: The classifier on the encoder.
        label_fraction: Fraction of the patients of each class whose labels are used, in (0, 1]; the labels of sites
            from `data.extra_manifests` are all used.
        data: The images.
        algorithm: The federated algorithm; null: fedcore.algorithms.base.FedAvg.
        visit: Local training in one round.
        rounds: Number of rounds and sites per round.
        policy: The data that sites allow to be sent.
        per_patient: Score patients instead of images, by the mean probabilities over a patient's images.
        ordinal: The classes are grades, ranked by the numbers in their names: linear and quadratic kappa are also
            reported.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every random generator.
        workers: Processes that visit sites at the same time; several may share a GPU. 1: one site after another in
            this process.
    """
    run.prepare()
    require_counts_allowed(policy)
    encoder_folder = find_encoder(Path(pretrained)) if pretrained else None
    loaded = load(data)
    module = build_classifier(loaded, encoder, classifier, seed, encoder_folder)
    classes = target_classes(module, loaded)
    grades = ordinal_grades(classes, module) if ordinal else []
    cohort = with_findings(loaded, classes) if module.targets == "findings" else loaded
    train, test = _train_and_test(cohort, label_fraction, seed, policy)
    if module.augment is not None:
        module.augment.flips(cohort.spatial_dims)
    require_trained(cohort.split("train"), test, module.targets, classes)
    require_classes(test, module.targets, len(classes), policy)
    job = Job(train=train, test=test, algorithm=algorithm or FedAvg(), visit=visit, rounds=rounds, policy=policy,
              loggers=loggers, seed=seed, workers=workers)  # fmt: skip
    about = describe(loaded) | {"command": "finetune", "label_fraction": label_fraction}
    about |= {"classes": list(classes), "multilabel": module.targets == "findings"}
    about |= {"labelled_images": {site: len(images) for site, images in train.items()}}
    about["notes"] = [*about["notes"], *print_notes(preprocessing_notes(encoder_folder, run.recipe, loaded.size))]
    transport = job.train_in(run, module, about)
    save_classifier(run, module)
    scores = evaluate_classifier(transport, seed, grades, per_patient)
    settings = {"label_fraction": label_fraction, "pretrained": pretrained, "per_patient": per_patient}
    personal_sites = list(own_parts(transport.memories, transport.names()))
    save_result(run, module, MODEL, settings | to_json(scores, classes), personal_sites)
    run.close("finished")
    print_scores(scores, classes)


def build_classifier(
    cohort: Cohort, encoder: Callable[[int, int], Encoder], classifier: Callable[[Encoder, int], Classifier],
    seed: int, encoder_folder: Path | None = None,
) -> Classifier:  # fmt: skip
    """A classifier for these images, with the encoder's weights from `encoder_folder` if given.

    Raises:
        InputError: There are fewer than two classes, or no finding, or images have several findings and the classifier
            learns one class per image.
    """
    findings = findings_of(cohort.classes)

    def build(num_classes: int) -> Classifier:
        with seeded(seed), building("the classifier or its encoder"):
            backbone = encoder(cohort.spatial_dims, cohort.channels)
            if encoder_folder:
                load_encoder(encoder_folder, backbone)
            return classifier(backbone, num_classes)

    module = build(max(1, len(findings)))
    if module.targets == "findings":
        if not findings:
            raise InputError(
                "a multi-label classifier needs at least 1 finding, the images have "
                f"{list(cohort.classes) or 'no labels'}; give the manifest a column 'label'"
            )
        return module
    if len(cohort.classes) < 2:
        raise InputError(
            f"a classifier needs at least 2 classes, the images have {list(cohort.classes) or 'no labels'}; "
            "give the manifest a column 'label'"
        )
    if several(cohort.classes):
        raise InputError(
            "the labels have several findings per image, as in 'A|B', and the classifier takes one class per image; "
            "use the recipe classify_multilabel, or set classifier.init_args.loss to "
            "fedtune.classification.losses.BinaryCrossEntropy"
        )
    return module if len(findings) == len(cohort.classes) else build(len(cohort.classes))


def target_classes(module: Classifier, cohort: Cohort) -> tuple[str, ...]:
    """The classes that the classifier learns: findings if it is multi-label."""
    return findings_of(cohort.classes) if module.targets == "findings" else cohort.classes


def ordinal_grades(classes: Sequence[str], module: Classifier) -> list[int]:
    """Indices of the classes in order of their grades (`fedtune.evaluation.kappa.grade_order`).

    Raises:
        InputErrors: The names of the classes define no order.
        InputError: The classifier is multi-label.
    """
    if module.targets == "findings":
        raise InputError("ordinal needs one class per image, and this classifier is multi-label; remove ordinal")
    return grade_order(classes)


def _train_and_test(
    cohort: Cohort, fraction: float, seed: int, policy: Policy
) -> tuple[dict[str, Images], dict[str, Images]]:
    """By site, the training images whose labels are used, and all labelled test images."""
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
    """By site, the test images with a label."""
    tests = {
        site: images.take((images.labels >= 0).nonzero().flatten()) for site, images in cohort.split("test").items()
    }
    return {site: images for site, images in tests.items() if len(images)}
