"""Which labels and masks a site gives away: those of a fraction of its patients, of labels stratified by class; and
whether they teach what is tested.

Every training that takes a `label_fraction` chooses by these rules, so that runs with one seed use the same labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import one_hot

from fedcore.data.dataset import Images, Target
from fedcore.data.preprocess.decode import UNLABELED
from fedcore.errors import InputError, InputErrors


def require_fraction(fraction: float) -> None:
    """Raises InputError before anything is trained."""
    if not 0 < fraction <= 1:
        raise InputError(f"label_fraction must lie in (0, 1], got {fraction}")


def labelled(images: Images, fraction: float, seed: int) -> Images:
    """The images of a fraction of the labelled patients of each class.

    At least one patient of every class is kept, so a fraction of 0.01 still has all the classes the
    site has. With the same seed a smaller fraction's patients are among a larger one's.

    Args:
        images: A site's training images.
        fraction: In (0, 1]; of the patients of each class. A patient with several classes counts for the most frequent,
            one with several findings for the rarest. Labels of companions cost nothing and are all used.
        seed: Which patients.

    Raises:
        InputError: Companions have no labels.
    """
    images = _known(images)
    return images.take(np.flatnonzero(_chosen(images, fraction, seed)))


def less_labelled(images: Images, fraction: float, seed: int) -> Images:
    """All the images, of which only those that `labelled` gives keep their label."""
    known = np.flatnonzero(images.labels.numpy() >= 0)
    kept = torch.zeros(len(images), dtype=torch.bool)
    kept[known] = torch.from_numpy(_chosen(images.take(known), fraction, seed))
    return replace(images, labels=torch.where(kept, images.labels, -1))


def less_masked(images: Images, fraction: float, seed: int) -> Images:
    """All the images, of which only those that `of_patients` gives of the ones with a mask keep it."""
    if images.masks is None:
        return images
    patients = of_patients(with_mask(images), fraction, seed).patients
    return replace(images, masks_used=np.isin(images.patients, patients))


def with_mask(images: Images) -> Images:
    """Those whose mask labels at least one pixel; the site has masks."""
    parts = [range(at, min(at + 64, len(images))) for at in range(0, len(images), 64)]
    known = [(images.mask_batch(part) != UNLABELED).flatten(1).any(1) for part in parts]
    return images.take(torch.cat(known).nonzero().flatten()) if known else images


def of_patients(images: Images, fraction: float, seed: int) -> Images:
    """The images of a fraction of the patients, at least one; a smaller fraction's are among a larger one's.

    Args:
        images: A site's training images.
        fraction: In (0, 1].
        seed: Which patients.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"label_fraction must lie in (0, 1], got {fraction}")
    patients = np.unique(images.patients)
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen = patients[order[: max(1, round(fraction * len(patients)))]]
    return images.take(np.flatnonzero(np.isin(images.patients, chosen)))


def require_trained(
    train: Mapping[str, Images], tests: Mapping[str, Images], kind: Target, names: Sequence[str]
) -> None:
    """Raises InputErrors where test images have a class or finding that no training image has, companions included."""
    drawn = [images.companions.images for images in train.values() if images.companions]
    known = set().union(*(_shown(images, kind) for images in [*train.values(), *drawn[:1]]))  # all have the same
    unseen = [
        f"site '{site}': class '{names[number]}' in its test images"
        for site, images in tests.items()
        for number in sorted(_shown(images, kind) - known)
    ]
    if unseen:
        told = ", ".join(names[number] for number in sorted(known))
        advice = "Give training images of each class, or empty the label cells of these test images."
        raise InputErrors("labels", unseen, f"Training images hold {told or 'no class'} alone. {advice}")


def _shown(images: Images, kind: Target) -> set[int]:
    if not len(images):
        return set()
    if kind == "findings":
        return set(images.targets(kind, range(len(images))).any(dim=0).nonzero().flatten().tolist())
    return set(images.labels[images.labels >= 0].tolist())


def _known(images: Images) -> Images:
    """The labelled ones, in the company of labelled ones."""
    known = images.take(np.flatnonzero(images.labels.numpy() >= 0))
    if (companions := images.companions) is None:
        return known
    if not (companions.images.labels >= 0).any():
        raise InputError("data.synthetic has no labels; draw a set from a generator that was trained with labels")
    return replace(known, companions=replace(companions, images=_known(companions.images)))


def _chosen(images: Images, fraction: float, seed: int) -> np.ndarray:
    """(n,) whether an image's patient is chosen; all images are labelled."""
    if not 0 < fraction <= 1:
        raise ValueError(f"label_fraction must lie in (0, 1], got {fraction}")
    chosen = np.concatenate([np.zeros(0, dtype=np.int64), *_chosen_patients(images, fraction, seed)])
    return np.isin(images.patients, chosen)


def _chosen_patients(images: Images, fraction: float, seed: int) -> Iterator[np.ndarray]:
    patients, owner = np.unique(images.patients, return_inverse=True)
    strata = _classes_of(images, owner, len(patients)) if len(images) else np.zeros(0, dtype=np.int64)
    for k in range(strata.max(initial=-1) + 1):
        members = patients[strata == k]
        order = np.random.default_rng([seed, k]).permutation(len(members))
        yield members[order[: max(1, round(fraction * len(members)))]]


def _classes_of(images: Images, owner: np.ndarray, patients: int) -> np.ndarray:
    """The class that each patient counts for; those without a finding are a class too."""
    told = one_hot(images.labels) if images.findings is None else images.findings
    counts = np.zeros((patients, told.shape[1]), dtype=np.int64)
    np.add.at(counts, owner, told.numpy())
    if images.findings is None:
        return counts.argmax(1)
    # Of sets of findings there are about as many as patients, and one of each would be nearly everybody.
    rarity = np.where(counts > 0, (counts > 0).sum(0), patients + 1)
    return np.where(counts.any(1), rarity.argmin(1), told.shape[1])
