"""Losses of segmentation, on logits and masks of class numbers; unlabelled pixels (255) are ignored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, one_hot

from fedcore.data.mask_classes import UNLABELED

SMOOTH = 1e-5
"""Added to both sides of the fraction, as MONAI does: the Dice of two empty masks is 1."""


def dice_ce_loss(logits: Float[Tensor, "n k *space"], masks: Int64[Tensor, "n *space"]) -> Float[Tensor, ""]:
    """Cross entropy + 1 - mean Dice of the structures without background, each over the whole batch (as in nnU-Net).

    Over the batch, because the loss of a patch without a structure would jump between 0 and 1. Without unlabelled
    pixels it equals MONAI's `DiceCELoss(to_onehot_y, softmax, batch, include_background=False)`, which cannot ignore
    pixels. 0 where no pixel is labelled.
    """
    logits, known = logits.float(), masks != UNLABELED
    if not known.any():
        return logits.sum() * 0
    entropy = cross_entropy(logits, masks, ignore_index=UNLABELED)
    predicted = logits.softmax(1) * known[:, None]
    truth = _one_hot(masks, known, logits.shape[1])
    dims = [0, *range(2, logits.ndim)]
    intersection, total = (predicted * truth).sum(dims), predicted.sum(dims) + truth.sum(dims)
    dice = (2 * intersection + SMOOTH) / (total + SMOOTH)
    return entropy + 1 - dice[1:].mean()


def deep_supervision_loss(
    outputs: Sequence[Float[Tensor, "n k *_"]], masks: Int64[Tensor, "n *space"]
) -> Float[Tensor, ""]:
    """Weighted mean of the `dice_ce_loss` of each output, finest first, with the masks resized to its size.

    Each output has half the weight of the one before.
    """
    weights = [0.5**level for level in range(len(outputs))]
    losses = [w * dice_ce_loss(o, _resize(masks, o.shape[2:])) for w, o in zip(weights, outputs, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def boundary_loss(logits: Float[Tensor, "n k *space"], masks: Int64[Tensor, "n *space"]) -> Float[Tensor, ""]:
    """Probability of each structure times the distance to its boundary, in pixels, negative inside.

    Kervadec et al. 2019, arXiv 1812.07032: mean over pixels of sum_k p_k phi_k, structures without background; a
    structure that the mask lacks is left out. Distances are computed on the CPU, about 2 ms per 64 x 64 mask and
    structure.
    """
    logits, known = logits.float(), masks != UNLABELED
    truth = _one_hot(masks, known, logits.shape[1])[:, 1:].bool()
    distances = torch.from_numpy(_signed_distances(truth.cpu().numpy())).to(logits)
    return (logits.softmax(1)[:, 1:] * distances * known[:, None]).mean()


def _signed_distances(truth: Bool[np.ndarray, "n k *space"]) -> Float[np.ndarray, "n k *space"]:
    """Positive outside; 0 everywhere where the structure is absent or fills the mask."""
    from scipy.ndimage import distance_transform_edt as distance

    found = np.zeros(truth.shape, np.float32)
    for at in np.ndindex(*truth.shape[:2]):
        inside = truth[at]
        if inside.any() and not inside.all():
            # The boundary lies between pixels: the nearest ones on both sides are half a pixel from it.
            found[at] = np.where(inside, 0.5 - distance(inside), distance(~inside) - 0.5)
    return found


def _one_hot(masks: Int64[Tensor, "n *space"], known: Tensor, num_classes: int) -> Float[Tensor, "n k *space"]:
    return one_hot(masks * known, num_classes).movedim(-1, 1).float() * known[:, None]


def _resize(masks: Int64[Tensor, "n *space"], space: Sequence[int]) -> Int64[Tensor, "n *_"]:
    if masks.shape[1:] == torch.Size(space):
        return masks
    return interpolate(masks[:, None].float(), tuple(space), mode="nearest")[:, 0].long()
