"""`fedpretrain segment`: several hospitals train a segmenter, from an encoder or from random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from fedcore.algorithms.base import Algorithm, FedAvg
from fedcore.data.dataset import Cohort, Images
from fedcore.data.describe import describe
from fedcore.data.labels import of_patients, require_fraction, with_mask
from fedcore.data.preprocess.decode import UNLABELED
from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors, building
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import SEGMENTER, own_parts, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedtune.evaluation.classification import require_tests
from fedtune.evaluation.native_grid import Files
from fedtune.evaluation.segmentation import as_json, evaluate_masks, require_summable, show
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
        network: What segments: UShaped, SegResNet, DynUNet or SwinUNETR of fedtune.segmentation.networks; where
            `start` is given UShaped, which has an encoder.
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
    if tolerance <= 0:
        raise InputError(f"tolerance must be positive, got {tolerance}")
    weights = find_encoder(Path(start)) if start else None
    cohort = load(data)
    train, test = _tasks(cohort, label_fraction, seed, policy)
    files = Files.of(data, cohort) if native else None
    structures = structures_of(train, test)
    module = build(cohort, structures, network, segmenter, seed, weights)
    job = Job(train=train, test=test, algorithm=algorithm or FedAvg(), visit=visit, rounds=rounds, policy=policy,
              loggers=loggers, seed=seed, workers=workers)  # fmt: skip
    about = describe(cohort) | {"command": "segment", "label_fraction": label_fraction, "structures": structures}
    about |= {"carried": carried(module.network) if weights else 0.0, "labelled": {s: len(i) for s, i in train.items()}}
    about["notes"] = [*about["notes"], *noted(start_notes(weights, run.recipe, cohort.size))]
    transport = job.train_in(run, module, about)
    save_classifier(run, module, SEGMENTER)
    found = evaluate_masks(transport, structures, tolerance, seed, files, hd95_missed)
    settings = {"label_fraction": label_fraction, "encoder": start}
    owners = list(own_parts(transport.memories, transport.names()))
    leave(run, module, SEGMENTER, settings | as_json(found), owners)
    run.close("finished", notes=[*run.about()["notes"], *Outlines().keep(transport, structures)])
    show(found)


def build(
    cohort: Cohort, structures: int, network: Callable[[int, int, int], nn.Module],
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter], seed: int, weights: Path | None = None,
) -> Segmenter:  # fmt: skip
    """The segmenter for these images, its encoder from `weights` if given."""
    with seeded(seed), building("the segmenter or its network"):
        net = network(cohort.spatial_dims, cohort.channels, structures)
        if weights:
            encoder = getattr(net, "encoder", None)
            if not isinstance(encoder, nn.Module):
                raise InputError(
                    f"start gives an encoder, and {type(net).__name__} has none of ours; "
                    "fedtune.segmentation.networks.UShaped takes one"
                )
            load_encoder(weights, encoder)
        return segmenter(net, cohort.size)


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


def _tasks(cohort: Cohort, fraction: float, seed: int, policy: Policy) -> tuple[dict[str, Images], dict[str, Images]]:
    """Training images with masks that are given away, and all test images with masks, by site."""
    require_fraction(fraction)
    train = {
        site: of_patients(images, 1.0 if site in cohort.extra_sites else fraction, seed)
        for site, images in with_masks(cohort, "train").items()
    }
    if not train:
        raise InputError(
            "no site has a training image with a mask; give rows of the split 'train' one in the column 'mask'"
        )
    if any(images.companions and images.companions.images.masks is None for images in train.values()):
        raise InputError("data.synthetic has no masks; draw a set from a generator of pairs (recipe diffusion_pairs)")
    tests = with_masks(cohort, "test")
    require_tests(tests, policy, "test images with masks")
    return train, tests


def with_masks(cohort: Cohort, split: str) -> dict[str, Images]:
    """Images whose mask labels at least one pixel."""
    found = {site: with_mask(images) for site, images in cohort.split(split).items() if images.masks is not None}
    return {site: images for site, images in found.items() if len(images)}
