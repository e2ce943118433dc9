"""`fedpretrain finetune`: several hospitals train a classifier, from an encoder or from random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm, Visitor
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.findings import findings_of, with_findings
from fedcore.data.labels import labelled_subset, require_fraction, require_trained_classes
from fedcore.data.source import Data
from fedcore.data.summary import summarize
from fedcore.errors import InputError
from fedcore.messages.agreement import Agreement
from fedcore.messages.request import EVALUATE, FAREWELL, TRAIN
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import find_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.report.site_page import SitePage
from fedcore.runs.classifiers import MODEL, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.server.farewell import say_farewell
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.server.sites import Sites
from fedcore.site.farewell import Farewell
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import agreed, by_workers, simulate_task
from fedtune.classification.build import build_classifier, target_classes
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import (
    EvaluateClassifier,
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
        algorithm: The federated algorithm; null: fedcore.algorithms.fedavg.FedAvg.
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
    require_fraction(label_fraction)
    encoder_folder = find_encoder(Path(pretrained)) if pretrained else None
    cohort = read_images(data)
    task = FineTuning(
        algorithm or FedAvg(), visit, encoder, classifier, encoder_folder, label_fraction, per_patient, ordinal, seed
    )
    agreement = agreed(cohort)
    module = task.module(agreement)
    classes = target_classes(module, agreement)
    task.grades(agreement, module)
    train, test = task.parts(cohort, module)
    all_labels, _ = replace(task, label_fraction=1.0).parts(cohort, module)
    _require_usable(all_labels, test, module, classes, policy)
    if module.augment is not None:
        module.augment.flips(cohort.spatial_dims)
    local = LocalTrainer(module, share_of(task.algorithm, module), visit)
    simulation = simulate_task(task, cohort, local, agreement, policy, run.path / "sites", run.digest)
    about = summarize(cohort) | {"command": "finetune", "label_fraction": label_fraction}
    about |= {"classes": list(classes), "multilabel": module.targets == "findings"}
    about |= {"labelled_images": {site: len(images) for site, images in train.items()}}
    about["notes"] = [*about["notes"], *print_notes(preprocessing_notes(encoder_folder, run.recipe, cohort.size))]
    job = Job(task.algorithm, rounds, None, loggers, seed)
    sites = job.train_in(run, local, simulation, about, by_workers(workers))
    finish(run, sites, local, task, {"label_fraction": label_fraction, "pretrained": pretrained}, policy)


@dataclass(frozen=True)
class FineTuning:
    """The training of `finetune`, as server and sites build it (`fedcore.algorithms.task.Task`)."""

    algorithm: Algorithm
    visit: Visit
    encoder: Callable[[int, int], Encoder]
    classifier: Callable[[Encoder, int], Classifier]
    encoder_folder: Path | None
    """Folder of a pretrained encoder."""
    label_fraction: float
    per_patient: bool
    ordinal: bool
    seed: int

    def module(self, agreement: Agreement) -> Classifier:
        return build_classifier(agreement, self.encoder, self.classifier, self.seed, self.encoder_folder)

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        evaluate = EvaluateClassifier(grades=self.grades(agreement, module), per_patient=self.per_patient)
        return {TRAIN: self.algorithm, EVALUATE: evaluate, FAREWELL: Farewell((SitePage("finetune", agreement),))}

    def grades(self, agreement: Agreement, module: LightningModule) -> list[int]:
        """Indices of the classes in order of their grades, if they are grades."""
        classifier = cast(Classifier, module)
        return ordinal_grades(target_classes(classifier, agreement), classifier) if self.ordinal else []

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        """By site, the training images whose labels are used (all of extra sites), and all labelled test images."""
        if isinstance(module, Classifier) and module.targets == "findings":
            cohort = with_findings(cohort, findings_of(cohort.classes))
        train = {
            site: labelled_subset(images, 1.0 if site in cohort.extra_sites else self.label_fraction, self.seed)
            for site, images in cohort.split("train").items()
        }
        return {site: images for site, images in train.items() if len(images)}, labelled_tests(cohort)

    def mask_classes(self, cohort: Cohort) -> int:
        return 0


def task_of(recipe: Mapping[str, Any]) -> FineTuning:
    """Of a recipe that was read and built."""
    folder = find_encoder(Path(recipe["pretrained"])) if recipe["pretrained"] else None
    settings = [recipe[key] for key in ("label_fraction", "per_patient", "ordinal", "seed")]
    return FineTuning(
        recipe["algorithm"] or FedAvg(), recipe["visit"], recipe["encoder"], recipe["classifier"], folder, *settings
    )


def finish(
    run: RunFolder, sites: Sites, local: LocalTrainer, task: FineTuning, settings: dict[str, Any], policy: Policy
) -> None:
    """At the server: saves the classifier, and asks the sites for the counts that its scores are computed from."""
    module = cast(Classifier, local.module)
    save_classifier(run, module)
    weights, count = local.shared(), run.about()["rounds"]
    grades, classes = task.grades(sites.agreement, module), target_classes(module, sites.agreement)
    scores = evaluate_classifier(sites, weights, task.seed, policy, grades, task.per_patient)
    local.load(weights)  # a visit may have loaded a site's personal model
    farewells = say_farewell(sites, weights, sites.training, Round(count, count, task.seed))
    settings = settings | {"per_patient": task.per_patient}
    save_result(run, module, MODEL, settings | to_json(scores, classes), farewells.owners)
    run.close("finished", notes=[*run.about()["notes"], *farewells.notes])
    print_scores(scores, classes)


def _require_usable(
    train: Mapping[str, Images], test: Mapping[str, Images], module: Classifier, classes: Sequence[str], policy: Policy
) -> None:
    """Raises InputError, before training, where labels are missing or too few for a score."""
    if not train:
        raise InputError("no site has a labelled training image; give rows of the split 'train' a label")
    require_tests(test, policy)
    require_trained_classes(train, test, module.targets, classes)
    require_classes(test, module.targets, len(classes), policy)


def ordinal_grades(classes: Sequence[str], module: Classifier) -> list[int]:
    """Indices of the classes in order of their grades (`fedtune.evaluation.kappa.grade_order`).

    Raises:
        InputErrors: The names of the classes define no order.
        InputError: The classifier is multi-label.
    """
    if module.targets == "findings":
        raise InputError("ordinal needs one class per image, and this classifier is multi-label; remove ordinal")
    return grade_order(classes)


def labelled_tests(cohort: Cohort) -> dict[str, Images]:
    """By site, the test images with a label."""
    tests = {
        site: images.take((images.labels >= 0).nonzero().flatten()) for site, images in cohort.split("test").items()
    }
    return {site: images for site, images in tests.items() if len(images)}
