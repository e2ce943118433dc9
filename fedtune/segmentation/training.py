"""`fedpretrain segment`: several hospitals train a segmenter, from an encoder or from random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pytorch_lightning import LightningModule
from torch import nn

from fedcore.algorithms.base import Algorithm, Visitor
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.labels import patient_subset, require_fraction
from fedcore.data.source import Data
from fedcore.data.summary import summarize
from fedcore.errors import InputError, building
from fedcore.messages.agreement import Agreement
from fedcore.messages.request import EVALUATE, FAREWELL, TRAIN
from fedcore.messages.round import Round
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.privacy.policy import Policy
from fedcore.report.site_page import SitePage
from fedcore.runs.classifiers import SEGMENTER, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.farewell import say_farewell
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.server.sites import Sites
from fedcore.site.farewell import Farewell
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import agreed, by_workers, simulate_task
from fedtune.evaluation.native_grid import NativeFiles, require_files
from fedtune.evaluation.segmentation import (
    EvaluateSegmenter,
    distance_unit,
    evaluate_segmenter,
    print_scores,
    require_sums_allowed,
    to_json,
)
from fedtune.evaluation.segmentation_gallery import SegmentationGallery
from fedtune.evaluation.segmentation_metrics import MissingStructure
from fedtune.pretrained import preprocessing_notes
from fedtune.result import print_notes, save_result
from fedtune.segmentation.networks import EncoderUNet
from fedtune.segmentation.segmenter import Segmenter
from fedtune.segmentation.training_masks import classes_in, count_mask_classes, require_usable, with_masks


def segment(
    run: RunFolder,
    pretrained: str | None = None,
    network: Callable[[int, int, int], nn.Module] = EncoderUNet,
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter] = Segmenter,
    label_fraction: float = 1.0,
    data: Data = Data(),
    algorithm: Algorithm | None = None,
    visit: Visit = Visit(batch_size=8),
    rounds: Rounds = Rounds(),
    policy: Policy = Policy(),
    tolerance: float = 1.0,
    native_grid: bool = False,
    hd95_missing: MissingStructure = "omit",
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",),
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Trains a segmenter across hospitals, with a pretrained encoder or from random weights.

    Args:
        run: Folder of the run.
        pretrained: A pretraining run or an encoder's folder; null: random weights.
        network: EncoderUNet, SegResNet, DynUNet or SwinUNETR of fedtune.segmentation.networks; with `pretrained` it
            must be EncoderUNet, with the same encoder settings as in pretraining.
        segmenter: The training of the network, and its use on images larger than its patches.
        label_fraction: Fraction of the patients whose masks are used, in (0, 1].
        data: The images; the manifest's column `mask` names their masks of class numbers, 0 for background.
        algorithm: The federated algorithm; null: fedcore.algorithms.fedavg.FedAvg.
        visit: Local training in one round.
        rounds: Number of rounds and sites per round.
        policy: The data that sites allow to be sent.
        tolerance: Distance up to which surfaces agree in the surface Dice, in mm (in pixels where files do not state
            the pixel size).
        native_grid: Score test images on the grid of their files instead of that of `data.size`; slower, and the scores
            that a user of the masks gets.
        hd95_missing: HD95 of an image where the mask or the prediction lacks a structure. omit: the image is left out,
            so a segmenter that misses more may have a better HD95 (scores.json has the number of images); diagonal:
            the diagonal of the image.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every random generator.
        workers: Processes that visit sites at the same time; several may share a GPU. 1: one site after another in
            this process.
    """
    run.prepare()
    require_sums_allowed(policy)
    require_fraction(label_fraction)
    if tolerance <= 0:
        raise InputError(f"tolerance must be positive, got {tolerance}")
    encoder_folder = find_encoder(Path(pretrained)) if pretrained else None
    cohort = read_images(data)
    if native_grid:
        require_files(data, cohort)
    task = Segmentation(
        algorithm or FedAvg(), visit, network, segmenter, encoder_folder, label_fraction, tolerance,
        data if native_grid else None, hd95_missing, seed,
    )  # fmt: skip
    train, test = task.parts(cohort)
    require_usable(train, test, policy)
    agreement = agreed(cohort, count_mask_classes(train, test))
    module = task.module(agreement)
    local = LocalTrainer(module, share_of(task.algorithm, module), visit)
    simulation = simulate_task(task, cohort, local, agreement, policy, run.path / "sites", run.digest)
    about = summarize(cohort) | {"command": "segment", "label_fraction": label_fraction}
    about |= {"mask_classes": agreement.mask_classes}
    about |= {"pretrained_fraction": encoder_fraction(module.network) if encoder_folder else 0.0}
    about |= {"labelled_images": {site: len(images) for site, images in train.items()}}
    about["notes"] = [*about["notes"], *print_notes(preprocessing_notes(encoder_folder, run.recipe, cohort.size))]
    job = Job(task.algorithm, rounds, None, loggers, seed)
    sites = job.train_in(run, local, simulation, about, by_workers(workers))
    settings = {"label_fraction": label_fraction, "pretrained": pretrained}
    finish(run, sites, local, task, settings, policy, scoring_grid(native_grid, cohort.size), distance_unit(test))


@dataclass(frozen=True)
class Segmentation:
    """The training of `segment`, as server and sites build it (`fedcore.algorithms.task.Task`)."""

    algorithm: Algorithm
    visit: Visit
    network: Callable[[int, int, int], nn.Module]
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter]
    encoder_folder: Path | None
    """Folder of a pretrained encoder."""
    label_fraction: float
    tolerance: float
    native: Data | None
    """Where the files are on whose grid test images are scored; None: that of `data.size`."""
    missing: MissingStructure
    seed: int

    def module(self, agreement: Agreement) -> Segmenter:
        return build_segmenter(agreement, self.network, self.segmenter, self.seed, self.encoder_folder)

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        files = NativeFiles.of(self.native, agreement.size, agreement.channels) if self.native else None
        evaluate = EvaluateSegmenter(agreement.mask_classes, self.tolerance, files, self.missing)
        gallery = SegmentationGallery(agreement.mask_classes)
        return {
            TRAIN: self.algorithm,
            EVALUATE: evaluate,
            FAREWELL: Farewell((gallery, SitePage("segment", agreement))),
        }

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        """By site, the training images whose masks are used (all of extra sites), and all test images with masks."""
        train = {
            site: patient_subset(images, 1.0 if site in cohort.extra_sites else self.label_fraction, self.seed)
            for site, images in with_masks(cohort, "train").items()
        }
        return train, with_masks(cohort, "test")

    def mask_classes(self, cohort: Cohort) -> int:
        found = (classes_in(images) for images in with_masks(cohort, "train").values())
        return 1 + max((max(classes, default=0) for classes in found), default=0)


def task_of(recipe: Mapping[str, Any]) -> Segmentation:
    """Of a recipe that was read and built."""
    folder = find_encoder(Path(recipe["pretrained"])) if recipe["pretrained"] else None
    native = recipe["data"] if recipe["native_grid"] else None
    return Segmentation(
        recipe["algorithm"] or FedAvg(), recipe["visit"], recipe["network"], recipe["segmenter"], folder,
        recipe["label_fraction"], recipe["tolerance"], native, recipe["hd95_missing"], recipe["seed"],
    )  # fmt: skip


def finish(
    run: RunFolder, sites: Sites, local: LocalTrainer, task: Segmentation, settings: dict[str, Any], policy: Policy,
    grid: str, unit: str,
) -> None:  # fmt: skip
    """At the server: saves the segmenter, and asks the sites for the sums that its scores are computed from."""
    module = cast(Segmenter, local.module)
    save_classifier(run, module, SEGMENTER)
    weights, count = local.shared(), run.about()["rounds"]
    scores = evaluate_segmenter(sites, weights, task.seed, policy, grid, unit, task.missing)
    local.load(weights)  # a visit may have loaded a site's personal model
    farewells = say_farewell(sites, weights, sites.names(), Round(count, count, task.seed))
    save_result(run, module, SEGMENTER, settings | to_json(scores), farewells.owners)
    run.close("finished", notes=[*run.about()["notes"], *farewells.notes])
    print_scores(scores)


def scoring_grid(native_grid: bool, size: Sequence[int]) -> str:
    """What images are scored on: the grid of their files, or the sides of the resized images in pixels."""
    return "files" if native_grid else " x ".join(map(str, size))


def build_segmenter(
    agreement: Agreement, network: Callable[[int, int, int], nn.Module],
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter], seed: int, encoder_folder: Path | None = None,
) -> Segmenter:  # fmt: skip
    """A segmenter for these images, with the encoder's weights from `encoder_folder` if given."""
    with seeded(seed), building("the segmenter or its network"):
        net = network(agreement.spatial_dims, agreement.channels, agreement.mask_classes)
        if encoder_folder:
            encoder = getattr(net, "encoder", None)
            if not isinstance(encoder, nn.Module):
                raise InputError(
                    f"pretrained needs a network with an encoder of fedcore.models, {type(net).__name__} has "
                    "none; use fedtune.segmentation.networks.EncoderUNet, or remove pretrained"
                )
            load_encoder(encoder_folder, encoder)
        return segmenter(net, agreement.size)


def encoder_fraction(network: nn.Module) -> float:
    """Fraction of the network's parameters that are in its encoder."""
    counts = {name: p.numel() for name, p in network.named_parameters()}
    in_encoder = [count for name, count in counts.items() if name.startswith("encoder.")]
    return round(sum(in_encoder) / sum(counts.values()), 4)
