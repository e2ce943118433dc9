"""Masks that a segmenter learns from: who has some, and how many classes they have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.labels import images_with_mask
from fedcore.data.mask_classes import UNLABELED
from fedcore.errors import InputError, InputErrors
from fedcore.privacy.policy import Policy
from fedtune.evaluation.classification import require_tests


def count_mask_classes(train: Mapping[str, Images], test: Mapping[str, Images]) -> int:
    """Number of classes in the masks, background included: the greatest class number plus one.

    Raises:
        InputErrors: Test masks have structures that no training mask has.
        InputError: Training masks have only background.
    """
    added = [images.added.images for images in train.values() if images.added]
    trained = set().union(*map(classes_in, [*train.values(), *added[:1]])) - {0}  # all sites have the same ones
    if not trained:
        raise InputError("the training masks have only background; number structures from 1 in the masks")
    untrained = [
        f"site '{site}': structure {number} in its test masks"
        for site, images in test.items()
        for number in sorted(classes_in(images) - trained - {0})
    ]
    if untrained:
        raise InputErrors("masks", untrained, f"Training masks have only {', '.join(map(str, sorted(trained)))}.")
    return max(trained) + 1


def classes_in(images: Images) -> set[int]:
    """Class numbers in the masks of these images, without unlabelled pixels."""
    seen = np.zeros(256, bool)
    for at in range(0, len(images), 64):
        seen[images.mask_batch(range(at, min(at + 64, len(images)))).unique().numpy()] = True
    return set(np.flatnonzero(seen).tolist()) - {UNLABELED}


def require_usable(train: Mapping[str, Images], test: Mapping[str, Images], policy: Policy) -> None:
    """Raises InputError, before training, where masks are missing or too few for a score."""
    if not train:
        raise InputError(
            "no site has a training image with a mask; give rows of the split 'train' one in the column 'mask'"
        )
    if any(images.added and images.added.images.masks is None for images in train.values()):
        raise InputError("data.synthetic has no masks; sample a set from a generator of pairs (recipe diffusion_pairs)")
    require_tests(test, policy, "test images with masks")


def with_masks(cohort: Cohort, split: str) -> dict[str, Images]:
    """By site, the images whose mask labels at least one pixel."""
    found = {site: images_with_mask(images) for site, images in cohort.split(split).items() if images.masks is not None}
    return {site: images for site, images in found.items() if len(images)}
