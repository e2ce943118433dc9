"""`fedpretrain segment`: several hospitals train a segmenter, from an encoder or from random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pytorch_lightning import LightningModule
from torch import nn

from fedcore.algorithms.base import Algorithm, FedAvg, Visitor, share_of
from fedcore.data.dataset import Cohort, Images
from fedcore.data.describe import describe
from fedcore.data.labels import of_patients, require_fraction, with_mask
from fedcore.data.preprocess.decode import UNLABELED
from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors, building
from fedcore.messages.agreement import Agreement
from fedcore.messages.request import EVALUATE, FAREWELL, TRAIN
from fedcore.messages.round import Round
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import SEGMENTER, save_classifier
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
from fedtune.evaluation.classification import require_tests
from fedtune.evaluation.native_grid import Files
from fedtune.evaluation.segmentation import EvaluateMasks, as_json, evaluate_masks, require_summable, show, unit_of
from fedtune.evaluation.segmentation_gallery import Outlines
from fedtune.evaluation.segmentation_metrics import Missed
from fedtune.result import leave, noted
from fedtune.segmentation.networks import UShaped
from fedtune.segmentation.segmenter import Segmenter
from fedtune.start import start_notes


def segment(
    run: RunFolder,
    start: str | None = None,
    network: Callable[[int, int, int], nn.Module] = UShaped,
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter] = Segmenter,
    label_fraction: float = 1.0,
    data: Data = Data(),
    algorithm: Algorithm | None = None,
    visit: Visit = Visit(batch_size=8),
    rounds: Rounds = Rounds(),
    policy: Policy = Policy(),
    tolerance: float = 1.0,
    native: bool = False,
    hd95_missed: Missed = "omit",
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",),
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Trains a segmenter across hospitals, its encoder pretrained or from random weights.

    Args:
        run: Folder of the run.
        start: A pretraining run or an encoder's folder; null starts from random weights.
        network: What segments: UShaped, SegResNet, DynUNet or SwinUNETR of fedtune.segmentation.networks; where `start`
        is given
            UShaped, which has an encoder.
        segmenter: How it is trained, and used on images larger than its patches.
        label_fraction: Fraction of the patients whose masks are used, in (0, 1].
        data: The images; the manifest's column `mask` names their masks of class numbers, 0 for background.
        algorithm: How sites cooperate; null: fedcore.algorithms.base.FedAvg.
        visit: Local training in one round.
        rounds: The schedule.
        policy: What sites agree to send.
        tolerance: Distance in mm (in pixels where files do not say how large those are) up to which surfaces agree.
        native: Score test images on the grid of their files rather than on that of `data.size`; slower, and what
            somebody meets who uses the masks.
        hd95_missed: HD95 where mask or prediction lacks a structure: omit leaves the image out, and a segmenter that
            misses more may have a better HD95 (scores.json says of how many images it is); diagonal counts the image's
            diagonal.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every generator.
        workers: Sites visited at the same time, each by a process of its own; several may share a GPU. 1: one after
            another in this process.
    """
    run.prepare()
    require_summable(policy)
    require_fraction(label_fraction)
    if tolerance <= 0:
        raise InputError(f"tolerance must be positive, got {tolerance}")
    weights = find_encoder(Path(start)) if start else None
    cohort = load(data)
    files = Files.of(data, cohort) if native else None
    task = Segmentation(
        algorithm or FedAvg(), visit, network, segmenter, weights, label_fraction, tolerance, files, hd95_missed, seed,
        cohort.extra_sites,
    )  # fmt: skip
    train, test = task.parts(cohort)
    _require_usable(train, test, policy)
    agreement = agreed(cohort, structures_of(train, test))
    module = task.module(agreement)
    local = LocalTrainer(module, share_of(task.algorithm, module), visit)
    simulation = simulate_task(task, cohort, local, agreement, policy, run.path / "sites", run.digest)
    about = describe(cohort) | {"command": "segment", "label_fraction": label_fraction}
    about |= {"structures": agreement.structures, "carried": carried(module.network) if weights else 0.0}
    about["notes"] = [*about["notes"], *noted(start_notes(weights, run.recipe, cohort.size))]
    about |= {"labelled": {s: len(i) for s, i in train.items()}}
    job = Job(task.algorithm, rounds, None, loggers, seed)
    sites = job.train_in(run, local, simulation, about, by_workers(workers))
    settings = {"label_fraction": label_fraction, "encoder": start}
    finish(run, sites, local, task, settings, policy, grid_of(files, cohort), unit_of(test))


@dataclass(frozen=True)
class Segmentation:
    """What server and sites build from a recipe of `segment`, see `fedcore.algorithms.task.Task`."""

    algorithm: Algorithm
    visit: Visit
    network: Callable[[int, int, int], nn.Module]
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter]
    weights: Path | None
    """Folder of a pretrained encoder."""
    label_fraction: float
    tolerance: float
    files: Files | None
    missed: Missed
    seed: int
    extra_sites: frozenset[str] = frozenset()
    """Sites whose masks cost nothing."""

    def module(self, agreement: Agreement) -> Segmenter:
        return build(agreement, self.network, self.segmenter, self.seed, self.weights)

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        evaluate = EvaluateMasks(agreement.structures, self.tolerance, self.files, self.missed)
        return {TRAIN: self.algorithm, EVALUATE: evaluate, FAREWELL: Farewell((Outlines(agreement.structures),))}

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        """Training images with masks that are given away, and all test images with masks, by site."""
        train = {
            site: of_patients(images, 1.0 if site in self.extra_sites else self.label_fraction, self.seed)
            for site, images in with_masks(cohort, "train").items()
        }
        return train, with_masks(cohort, "test")

    def structures(self, cohort: Cohort) -> int:
        return 1 + max((max(_shown(images), default=0) for images in with_masks(cohort, "train").values()), default=0)


def finish(
    run: RunFolder, sites: Sites, local: LocalTrainer, task: Segmentation, settings: dict[str, Any], policy: Policy,
    grid: str, unit: str,
) -> None:  # fmt: skip
    """At the server: saves the segmenter, and asks sites for what its scores are made of."""
    module = cast(Segmenter, local.module)
    save_classifier(run, module, SEGMENTER)
    weights, count = local.shared(), run.about()["rounds"]
    found = evaluate_masks(sites, weights, task.seed, policy, grid, unit, task.missed)
    local.load(weights)  # a site's personal model was in their place
    told = say_farewell(sites, weights, sites.names(), Round(count, count, task.seed))
    leave(run, module, SEGMENTER, settings | as_json(found), told.owners)
    run.close("finished", notes=[*run.about()["notes"], *told.notes])
    show(found)


def grid_of(files: Files | None, cohort: Cohort) -> str:
    """What images are scored on: the grid of their files, or that of `data.size`."""
    return "files" if files else " x ".join(map(str, cohort.size))


def build(
    agreement: Agreement, network: Callable[[int, int, int], nn.Module],
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter], seed: int, weights: Path | None = None,
) -> Segmenter:  # fmt: skip
    """The segmenter for these images, its encoder from `weights` if given."""
    with seeded(seed), building("the segmenter or its network"):
        net = network(agreement.spatial_dims, agreement.channels, agreement.structures)
        if weights:
            encoder = getattr(net, "encoder", None)
            if not isinstance(encoder, nn.Module):
                raise InputError(
                    f"start gives an encoder, and {type(net).__name__} has none of ours; "
                    "fedtune.segmentation.networks.UShaped takes one"
                )
            load_encoder(weights, encoder)
        return segmenter(net, agreement.size)


def carried(network: nn.Module) -> float:
    """Part of the network's weights that an encoder brings along."""
    all_of_them = {name: p.numel() for name, p in network.named_parameters()}
    brought = [count for name, count in all_of_them.items() if name.startswith("encoder.")]
    return round(sum(brought) / sum(all_of_them.values()), 4)


def structures_of(train: Mapping[str, Images], test: Mapping[str, Images]) -> int:
    """Class numbers in the masks, background included: one more than the greatest.

    Raises:
        InputErrors: Test masks hold structures that no training mask has.
        InputError: Training masks hold nothing but background.
    """
    drawn = [images.companions.images for images in train.values() if images.companions]
    known = set().union(*map(_shown, [*train.values(), *drawn[:1]])) - {0}  # everybody has the same companions
    if not known:
        raise InputError("the training masks hold nothing but background; a structure has a class number from 1 on")
    unseen = [
        f"site '{site}': structure {number} in its test masks"
        for site, images in test.items()
        for number in sorted(_shown(images) - known - {0})
    ]
    if unseen:
        raise InputErrors("masks", unseen, f"Training masks hold {', '.join(map(str, sorted(known)))} alone.")
    return max(known) + 1


def _shown(images: Images) -> set[int]:
    seen = np.zeros(256, bool)
    for at in range(0, len(images), 64):
        seen[images.mask_batch(range(at, min(at + 64, len(images)))).unique().numpy()] = True
    return set(np.flatnonzero(seen).tolist()) - {UNLABELED}


def _require_usable(train: Mapping[str, Images], test: Mapping[str, Images], policy: Policy) -> None:
    """Raises InputError, before anything is trained, where masks are missing or too few for a score."""
    if not train:
        raise InputError(
            "no site has a training image with a mask; give rows of the split 'train' one in the column 'mask'"
        )
    if any(images.companions and images.companions.images.masks is None for images in train.values()):
        raise InputError("data.synthetic has no masks; draw a set from a generator of pairs (recipe diffusion_pairs)")
    require_tests(test, policy, "test images with masks")


def with_masks(cohort: Cohort, split: str) -> dict[str, Images]:
    """Images whose mask labels at least one pixel."""
    found = {site: with_mask(images) for site, images in cohort.split(split).items() if images.masks is not None}
    return {site: images for site, images in found.items() if len(images)}
