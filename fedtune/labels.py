"""Which labels a site gives away: a fraction of its patients, stratified by class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from fedcore.data.images import Images
from fedcore.errors import InputError


def labelled(images: Images, fraction: float, seed: int) -> Images:
    """The images of a fraction of the labelled patients of each class.

    At least one patient of every class is kept, so a fraction of 0.01 still has all the classes the
    site has. With the same seed a smaller fraction's patients are among a larger one's.

    Args:
        images: A site's training images.
        fraction: In (0, 1]; of the patients of each class. A patient with several classes counts for the most frequent.
            Labels of companions cost nothing and are all used.
        seed: Which patients.

    Raises:
        InputError: Companions have no labels.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"label_fraction must lie in (0, 1], got {fraction}")
    images = _known(images)
    chosen = np.concatenate([np.zeros(0, dtype=np.int64), *_chosen_patients(images, fraction, seed)])
    return images.take(np.flatnonzero(np.isin(images.patients, chosen)))


def of_patients(images: Images, fraction: float, seed: int) -> Images:
    """The images of a fraction of the patients, at least one; a smaller fraction's are among a larger one's.

    Args:
        images: A site's training images.
        fraction: In (0, 1].
        seed: Which patients.
    """
    patients = np.unique(images.patients)
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen = patients[order[: max(1, round(fraction * len(patients)))]]
    return images.take(np.flatnonzero(np.isin(images.patients, chosen)))


def _known(images: Images) -> Images:
    """The labelled ones, in the company of labelled ones."""
    known = images.take(np.flatnonzero(images.labels.numpy() >= 0))
    if (companions := images.companions) is None:
        return known
    if not (companions.images.labels >= 0).any():
        raise InputError("data.synthetic has no labels; draw a set from a generator that was trained with labels")
    return replace(known, companions=replace(companions, images=_known(companions.images)))


def _chosen_patients(images: Images, fraction: float, seed: int) -> Iterator[np.ndarray]:
    patients, owner = np.unique(images.patients, return_inverse=True)
    classes = int(images.labels.max()) + 1 if len(images) else 0
    counts = np.zeros((len(patients), classes), dtype=np.int64)
    np.add.at(counts, (owner, images.labels.numpy()), 1)
    strata = counts.argmax(1) if classes else np.zeros(0, dtype=np.int64)
    for k in range(classes):
        members = patients[strata == k]
        order = np.random.default_rng([seed, k]).permutation(len(members))
        yield members[order[: max(1, round(fraction * len(members)))]]


def weights_of_classes(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Inverse frequency, mean 1 over the images; a class that is absent weighs 0."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (counts.clamp_min(1) * present.sum()), torch.zeros(()))
