"""Losses of segmentation on logits and masks of class numbers; pixels that nobody has labelled count for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, one_hot

from fedcore.data.io.class_numbers import UNLABELED

SMOOTH = 1e-5
"""Keeps the overlap of two empty masks at 1, as MONAI's does."""


def dice_ce(logits: Float[Tensor, "n k *space"], masks: Int64[Tensor, "n *space"]) -> Float[Tensor, ""]:
    """Cross entropy + 1 - mean Dice over structures without background, each over the whole batch (nnU-Net's).

    Over the batch, since a structure that one patch lacks would make the loss of that patch jump between 0 and 1.
    Without unlabelled pixels it is MONAI's `DiceCELoss(to_onehot_y, softmax, batch, include_background=False)`, which
    cannot leave pixels out. 0 where no pixel is labelled.
    """
    logits, known = logits.float(), masks != UNLABELED
    if not known.any():
        return logits.sum() * 0
    entropy = cross_entropy(logits, masks, ignore_index=UNLABELED)
    guess = logits.softmax(1) * known[:, None]
    truth = _one_hot(masks, known, logits.shape[1])
    dims = [0, *range(2, logits.ndim)]
    both, either = (guess * truth).sum(dims), guess.sum(dims) + truth.sum(dims)
    dice = (2 * both + SMOOTH) / (either + SMOOTH)
    return entropy + 1 - dice[1:].mean()


def deep_dice_ce(outputs: Sequence[Float[Tensor, "n k *_"]], masks: Int64[Tensor, "n *space"]) -> Float[Tensor, ""]:
    """`dice_ce` of each of a network's outputs against the masks at its size, each weighing half of the one before."""
    weights = [0.5**at for at in range(len(outputs))]
    losses = [w * dice_ce(o, _at_size(masks, o.shape[2:])) for w, o in zip(weights, outputs, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def boundary(logits: Float[Tensor, "n k *space"], masks: Int64[Tensor, "n *space"]) -> Float[Tensor, ""]:
    """Probability of each structure weighed by its distance to the border, in pixels, negative inside.

    Kervadec et al. 2019, arXiv 1812.07032: mean over pixels of sum_k p_k phi_k, structures without background; a
    structure that a mask lacks is left out. Distances are made on the CPU, some 2 ms a 64 x 64 mask and structure.
    """
    logits, known = logits.float(), masks != UNLABELED
    truth = _one_hot(masks, known, logits.shape[1])[:, 1:].bool()
    distances = torch.from_numpy(_distances(truth.cpu().numpy())).to(logits)
    return (logits.softmax(1)[:, 1:] * distances * known[:, None]).mean()


def _distances(truth: Bool[np.ndarray, "n k *space"]) -> Float[np.ndarray, "n k *space"]:
    """Signed: above 0 outside; 0 everywhere where there is no structure, or nothing else."""
    from scipy.ndimage import distance_transform_edt as distance

    found = np.zeros(truth.shape, np.float32)
    for at in np.ndindex(*truth.shape[:2]):
        inside = truth[at]
        if inside.any() and not inside.all():
            # The border lies between pixels: the nearest ones are half a pixel from it on either side.
            found[at] = np.where(inside, 0.5 - distance(inside), distance(~inside) - 0.5)
    return found


def _one_hot(masks: Int64[Tensor, "n *space"], known: Tensor, structures: int) -> Float[Tensor, "n k *space"]:
    return one_hot(masks * known, structures).movedim(-1, 1).float() * known[:, None]


def _at_size(masks: Int64[Tensor, "n *space"], space: Sequence[int]) -> Int64[Tensor, "n *_"]:
    if masks.shape[1:] == torch.Size(space):
        return masks
    return interpolate(masks[:, None].float(), tuple(space), mode="nearest")[:, 0].long()
