"""Subsets of labels and masks: those of a fraction of each site's patients (labels stratified by class).

Every training with a `label_fraction` uses these functions, so runs with equal seeds use the same labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import one_hot

from fedcore.data.dataset import Images, Target
from fedcore.data.mask_classes import UNLABELED
from fedcore.errors import InputError, InputErrors


def require_fraction(fraction: float) -> None:
    """Raises InputError for a fraction outside (0, 1]."""
    if not 0 < fraction <= 1:
        raise InputError(f"label_fraction must lie in (0, 1], got {fraction}")


def labelled_subset(images: Images, fraction: float, seed: int) -> Images:
    """The images of a fraction of the labelled patients of each class.

    At least one patient of every class is kept, so that a fraction of 0.01 still has all classes of the site. With
    equal seeds the patients of a smaller fraction are a subset of those of a larger one.

    Args:
        images: A site's training images.
        fraction: Fraction of the patients of each class, in (0, 1]. A patient with several classes counts for the most
            frequent, one with several findings for the rarest. All labels of added images are used.
        seed: Which patients are chosen.

    Raises:
        InputError: Added images have no labels.
    """
    images = _with_label(images)
    return images.take(np.flatnonzero(_chosen(images, fraction, seed)))


def hide_labels(images: Images, fraction: float, seed: int) -> Images:
    """All images; only those in `labelled_subset` keep their label."""
    with_label = np.flatnonzero(images.labels.numpy() >= 0)
    kept = torch.zeros(len(images), dtype=torch.bool)
    kept[with_label] = torch.from_numpy(_chosen(images.take(with_label), fraction, seed))
    return replace(images, labels=torch.where(kept, images.labels, -1))


def hide_masks(images: Images, fraction: float, seed: int) -> Images:
    """All images; of those with a mask, only the ones in `patient_subset` keep it."""
    if images.masks is None:
        return images
    patients = patient_subset(images_with_mask(images), fraction, seed).patients
    return replace(images, masks_used=np.isin(images.patients, patients))


def images_with_mask(images: Images) -> Images:
    """Images whose mask annotates at least one pixel; the site must have masks."""
    parts = [range(at, min(at + 64, len(images))) for at in range(0, len(images), 64)]
    annotated = [(images.mask_batch(part) != UNLABELED).flatten(1).any(1) for part in parts]
    return images.take(torch.cat(annotated).nonzero().flatten()) if annotated else images


def patient_subset(images: Images, fraction: float, seed: int) -> Images:
    """The images of a fraction of the patients, at least one; smaller fractions are subsets of larger ones.

    Args:
        images: A site's training images.
        fraction: In (0, 1].
        seed: Which patients are chosen.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"label_fraction must lie in (0, 1], got {fraction}")
    patients = np.unique(images.patients)
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen = patients[order[: max(1, round(fraction * len(patients)))]]
    return images.take(np.flatnonzero(np.isin(images.patients, chosen)))


def require_trained_classes(
    train: Mapping[str, Images], tests: Mapping[str, Images], kind: Target, names: Sequence[str]
) -> None:
    """Raises InputErrors where test images have a class or finding that no training image or added image has."""
    added = [images.added.images for images in train.values() if images.added]
    trained = set().union(*(_classes(images, kind) for images in [*train.values(), *added[:1]]))  # all have the same
    untrained = [
        f"site '{site}': class '{names[number]}' in its test images"
        for site, images in tests.items()
        for number in sorted(_classes(images, kind) - trained)
    ]
    if untrained:
        found = ", ".join(names[number] for number in sorted(trained)) or "no class"
        advice = "Add training images of each class, or empty the label cells of these test images."
        raise InputErrors("labels", untrained, f"The only classes of training images: {found}. {advice}")


def _classes(images: Images, kind: Target) -> set[int]:
    if not len(images):
        return set()
    if kind == "findings":
        return set(images.targets(kind, range(len(images))).any(dim=0).nonzero().flatten().tolist())
    return set(images.labels[images.labels >= 0].tolist())


def _with_label(images: Images) -> Images:
    """The labelled images, and of the added ones those with a label."""
    labelled = images.take(np.flatnonzero(images.labels.numpy() >= 0))
    if (added := images.added) is None:
        return labelled
    if not (added.images.labels >= 0).any():
        raise InputError("data.synthetic has no labels; take a set of a generator that was trained with labels")
    return replace(labelled, added=replace(added, images=_with_label(added.images)))


def _chosen(images: Images, fraction: float, seed: int) -> np.ndarray:
    """(n,) bool, whether an image's patient is chosen; all images are labelled."""
    if not 0 < fraction <= 1:
        raise ValueError(f"label_fraction must lie in (0, 1], got {fraction}")
    chosen = np.concatenate([np.zeros(0, dtype=np.int64), *_chosen_patients(images, fraction, seed)])
    return np.isin(images.patients, chosen)


def _chosen_patients(images: Images, fraction: float, seed: int) -> Iterator[np.ndarray]:
    patients, owner = np.unique(images.patients, return_inverse=True)
    strata = _strata(images, owner, len(patients)) if len(images) else np.zeros(0, dtype=np.int64)
    for k in range(strata.max(initial=-1) + 1):
        members = patients[strata == k]
        order = np.random.default_rng([seed, k]).permutation(len(members))
        yield members[order[: max(1, round(fraction * len(members)))]]


def _strata(images: Images, owner: np.ndarray, patients: int) -> np.ndarray:
    """The class that each patient counts for; patients without a finding are a class too."""
    table = one_hot(images.labels) if images.findings is None else images.findings
    counts = np.zeros((patients, table.shape[1]), dtype=np.int64)
    np.add.at(counts, owner, table.numpy())
    if images.findings is None:
        return counts.argmax(1)
    # There are about as many sets of findings as patients, so one patient of each set would be nearly all patients.
    rarity = np.where(counts > 0, (counts > 0).sum(0), patients + 1)
    return np.where(counts.any(1), rarity.argmin(1), table.shape[1])
