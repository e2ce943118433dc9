"""`fedpretrain finetune`: several hospitals train a classifier, from an encoder or from random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm, FedAvg, Visitor, share_of
from fedcore.data.dataset import Cohort, Images
from fedcore.data.describe import describe
from fedcore.data.findings import findings_of, several, with_findings
from fedcore.data.labels import labelled, require_fraction, require_trained
from fedcore.data.source import Data
from fedcore.errors import InputError, building
from fedcore.messages.agreement import Agreement
from fedcore.messages.request import EVALUATE, FAREWELL, TRAIN
from fedcore.messages.round import Round
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.models.encoders import Encoder, ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import MODEL, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.server.farewell import say_farewell
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.server.sites import Sites
from fedcore.site.farewell import Farewell
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.simulation import agreed, by_workers, simulate_task
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import Evaluate, evaluate, require_classes, require_countable, require_tests
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
        algorithm: How sites cooperate; null: fedcore.algorithms.base.FedAvg.
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
    require_fraction(label_fraction)
    loaded = load(data)
    weights = find_encoder(Path(start)) if start else None
    task = FineTuning(
        algorithm or FedAvg(), visit, encoder, classifier, weights, label_fraction, by_patient, ordinal, seed,
        loaded.extra_sites,
    )  # fmt: skip
    agreement = agreed(loaded)
    module = task.module(agreement)
    classes = learned_of(module, agreement)
    train, test = task.parts(loaded, module)
    everything, _ = replace(task, label_fraction=1.0).parts(loaded, module)
    _require_usable(everything, test, module, classes, policy)
    if module.augment is not None:
        module.augment.flips(loaded.spatial_dims)
    local = LocalTrainer(module, share_of(task.algorithm, module), visit)
    simulation = simulate_task(task, loaded, local, agreement, policy, run.path / "sites", run.digest)
    about = describe(loaded) | {"command": "finetune", "label_fraction": label_fraction}
    about |= {"classes": list(classes), "several_findings": module.targets == "findings"}
    about["notes"] = [*about["notes"], *noted(start_notes(weights, run.recipe, loaded.size))]
    about |= {"labelled": {s: len(i) for s, i in train.items()}}
    job = Job(task.algorithm, rounds, None, loggers, seed)
    sites = job.train_in(run, local, simulation, about, by_workers(workers))
    finish(run, sites, local, task, {"label_fraction": label_fraction, "encoder": start}, policy)


@dataclass(frozen=True)
class FineTuning:
    """What server and sites build from a recipe of `finetune`, see `fedcore.algorithms.task.Task`."""

    algorithm: Algorithm
    visit: Visit
    encoder: Callable[[int, int], Encoder]
    classifier: Callable[[Encoder, int], Classifier]
    weights: Path | None
    """Folder of a pretrained encoder."""
    label_fraction: float
    by_patient: bool
    ordinal: bool
    seed: int
    extra_sites: frozenset[str] = frozenset()
    """Sites whose labels cost nothing."""

    def module(self, agreement: Agreement) -> Classifier:
        return build(agreement, self.encoder, self.classifier, self.seed, self.weights)

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        evaluate = Evaluate(grades=self.grades(agreement, module), patients=self.by_patient)
        return {TRAIN: self.algorithm, EVALUATE: evaluate, FAREWELL: Farewell(())}

    def grades(self, agreement: Agreement, module: LightningModule) -> list[int]:
        """Places of the classes from the least grade to the greatest, where they are grades."""
        classifier = cast(Classifier, module)
        return ranked(learned_of(classifier, agreement), classifier) if self.ordinal else []

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        """Training images with labels that are given away, and all labelled test images, by site."""
        if isinstance(module, Classifier) and module.targets == "findings":
            cohort = with_findings(cohort, findings_of(cohort.classes))
        train = {
            site: labelled(images, 1.0 if site in self.extra_sites else self.label_fraction, self.seed)
            for site, images in cohort.split("train").items()
        }
        return {site: images for site, images in train.items() if len(images)}, labelled_tests(cohort)

    def structures(self, cohort: Cohort) -> int:
        return 0


def finish(
    run: RunFolder, sites: Sites, local: LocalTrainer, task: FineTuning, settings: dict[str, Any], policy: Policy
) -> None:
    """At the server: saves the classifier, and asks sites for what its scores are made of."""
    module = cast(Classifier, local.module)
    save_classifier(run, module)
    weights, count = local.shared(), run.about()["rounds"]
    grades, classes = task.grades(sites.agreement, module), learned_of(module, sites.agreement)
    found = evaluate(sites, weights, task.seed, policy, grades, task.by_patient)
    local.load(weights)  # a site's personal model was in their place
    owners = say_farewell(sites, weights, sites.training, Round(count, count, task.seed)).owners
    leave(run, module, MODEL, settings | {"by_patient": task.by_patient} | as_json(found, classes), owners)
    run.close("finished")
    show(found, classes)


def _require_usable(
    train: Mapping[str, Images], test: Mapping[str, Images], module: Classifier, classes: Sequence[str], policy: Policy
) -> None:
    """Raises InputError, before anything is trained, where labels are missing or too few for a score."""
    if not train:
        raise InputError("no site has a labelled training image; give rows of the split 'train' a label")
    require_tests(test, policy)
    require_trained(train, test, module.targets, classes)
    require_classes(test, module.targets, len(classes), policy)


def build(
    agreement: Agreement, encoder: Callable[[int, int], Encoder], classifier: Callable[[Encoder, int], Classifier],
    seed: int, weights: Path | None = None,
) -> Classifier:  # fmt: skip
    """The classifier for these images, its encoder from `weights` if given.

    Raises:
        InputError: There are no two classes and no finding, or images have several findings and the classifier learns
            one class each.
    """
    findings = findings_of(agreement.classes)

    def made(count: int) -> Classifier:
        with seeded(seed), building("the classifier or its encoder"):
            backbone = encoder(agreement.spatial_dims, agreement.channels)
            if weights:
                load_encoder(weights, backbone)
            return classifier(backbone, count)

    module = made(max(1, len(findings)))
    if module.targets == "findings":
        if not findings:
            raise InputError(
                f"a classifier of findings needs one, the images have {list(agreement.classes) or 'no labels'}; "
                "give the manifest a column 'label'"
            )
        return module
    if len(agreement.classes) < 2:
        raise InputError(
            f"a classifier needs at least 2 classes, the images have {list(agreement.classes) or 'no labels'}; "
            "give the manifest a column 'label'"
        )
    if several(agreement.classes):
        raise InputError(
            "the labels hold several findings an image, as in 'A|B', and the classifier takes one class an image; "
            "start from the recipe classify_multilabel, or set classifier.init_args.loss to "
            "fedtune.classification.losses.BinaryCrossEntropy"
        )
    return module if len(findings) == len(agreement.classes) else made(len(agreement.classes))


def learned_of(module: Classifier, agreement: Agreement) -> tuple[str, ...]:
    """What it learns to tell: findings or classes."""
    return findings_of(agreement.classes) if module.targets == "findings" else agreement.classes


def ranked(classes: Sequence[str], module: Classifier) -> list[int]:
    """The grades that the classes are (`fedtune.evaluation.kappa.grades_of`).

    Raises:
        InputErrors: Nothing ranks them.
        InputError: They are findings, of which an image may have several.
    """
    if module.targets == "findings":
        raise InputError("ordinal is for classes of which an image has one; findings are no grades, leave it away")
    return grades_of(classes)


def labelled_tests(cohort: Cohort) -> dict[str, Images]:
    tests = {
        site: images.take((images.labels >= 0).nonzero().flatten()) for site, images in cohort.split("test").items()
    }
    return {site: images for site, images in tests.items() if len(images)}
