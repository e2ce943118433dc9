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
from fedtune.evaluation.native_grid import NativeFiles
from fedtune.evaluation.segmentation import evaluate_segmenter, print_scores, require_sums_allowed, to_json
from fedtune.evaluation.segmentation_gallery import SegmentationGallery
from fedtune.evaluation.segmentation_metrics import MissingStructure
from fedtune.pretrained import preprocessing_notes
from fedtune.result import print_notes, save_result
from fedtune.segmentation.networks import EncoderUNet
from fedtune.segmentation.segmenter import Segmenter


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
        algorithm: The federated algorithm; null: fedcore.algorithms.base.FedAvg.
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
    if tolerance <= 0:
        raise InputError(f"tolerance must be positive, got {tolerance}")
    encoder_folder = find_encoder(Path(pretrained)) if pretrained else None
    cohort = load(data)
    train, test = _train_and_test(cohort, label_fraction, seed, policy)
    files = NativeFiles.of(data, cohort) if native_grid else None
    num_classes = count_mask_classes(train, test)
    module = build_segmenter(cohort, num_classes, network, segmenter, seed, encoder_folder)
    job = Job(train=train, test=test, algorithm=algorithm or FedAvg(), visit=visit, rounds=rounds, policy=policy,
              loggers=loggers, seed=seed, workers=workers)  # fmt: skip
    about = describe(cohort) | {"command": "segment", "label_fraction": label_fraction, "mask_classes": num_classes}
    about |= {"pretrained_fraction": encoder_fraction(module.network) if encoder_folder else 0.0}
    about |= {"labelled_images": {site: len(images) for site, images in train.items()}}
    about["notes"] = [*about["notes"], *print_notes(preprocessing_notes(encoder_folder, run.recipe, cohort.size))]
    transport = job.train_in(run, module, about)
    save_classifier(run, module, SEGMENTER)
    scores = evaluate_segmenter(transport, num_classes, tolerance, seed, files, hd95_missing)
    settings = {"label_fraction": label_fraction, "pretrained": pretrained}
    personal_sites = list(own_parts(transport.memories, transport.names()))
    save_result(run, module, SEGMENTER, settings | to_json(scores), personal_sites)
    run.close("finished", notes=[*run.about()["notes"], *SegmentationGallery().save(transport, num_classes)])
    print_scores(scores)


def build_segmenter(
    cohort: Cohort, num_classes: int, network: Callable[[int, int, int], nn.Module],
    segmenter: Callable[[nn.Module, tuple[int, ...]], Segmenter], seed: int, encoder_folder: Path | None = None,
) -> Segmenter:  # fmt: skip
    """A segmenter for these images, with the encoder's weights from `encoder_folder` if given."""
    with seeded(seed), building("the segmenter or its network"):
        net = network(cohort.spatial_dims, cohort.channels, num_classes)
        if encoder_folder:
            encoder = getattr(net, "encoder", None)
            if not isinstance(encoder, nn.Module):
                raise InputError(
                    f"pretrained needs a network with an encoder of fedcore.models.encoders, {type(net).__name__} has "
                    "none; use fedtune.segmentation.networks.EncoderUNet, or remove pretrained"
                )
            load_encoder(encoder_folder, encoder)
        return segmenter(net, cohort.size)


def encoder_fraction(network: nn.Module) -> float:
    """Fraction of the network's parameters that are in its encoder."""
    counts = {name: p.numel() for name, p in network.named_parameters()}
    in_encoder = [count for name, count in counts.items() if name.startswith("encoder.")]
    return round(sum(in_encoder) / sum(counts.values()), 4)


def count_mask_classes(train: Mapping[str, Images], test: Mapping[str, Images]) -> int:
    """Number of classes in the masks, background included: the greatest class number plus one.

    Raises:
        InputErrors: Test masks have structures that no training mask has.
        InputError: Training masks have only background.
    """
    companions = [images.companions.images for images in train.values() if images.companions]
    trained = set().union(*map(_classes_in, [*train.values(), *companions[:1]])) - {0}  # all sites have the same ones
    if not trained:
        raise InputError("the training masks have only background; number structures from 1 in the masks")
    untrained = [
        f"site '{site}': structure {number} in its test masks"
        for site, images in test.items()
        for number in sorted(_classes_in(images) - trained - {0})
    ]
    if untrained:
        raise InputErrors("masks", untrained, f"Training masks have only {', '.join(map(str, sorted(trained)))}.")
    return max(trained) + 1


def _classes_in(images: Images) -> set[int]:
    seen = np.zeros(256, bool)
    for at in range(0, len(images), 64):
        seen[images.mask_batch(range(at, min(at + 64, len(images)))).unique().numpy()] = True
    return set(np.flatnonzero(seen).tolist()) - {UNLABELED}


def _train_and_test(
    cohort: Cohort, fraction: float, seed: int, policy: Policy
) -> tuple[dict[str, Images], dict[str, Images]]:
    """By site, the training images whose masks are used, and all test images with masks."""
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
        raise InputError("data.synthetic has no masks; sample a set from a generator of pairs (recipe diffusion_pairs)")
    tests = with_masks(cohort, "test")
    require_tests(tests, policy, "test images with masks")
    return train, tests


def with_masks(cohort: Cohort, split: str) -> dict[str, Images]:
    """By site, the images whose mask labels at least one pixel."""
    found = {site: with_mask(images) for site, images in cohort.split(split).items() if images.masks is not None}
    return {site: images for site, images in found.items() if len(images)}
