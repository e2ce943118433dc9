"""One prediction per patient: the mean of the probabilities over the patient's images.

Probabilities and not logits, so that one image with an extreme logit does not outweigh the others.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

MIN_PROBABILITY = 1e-12
"""Smaller probabilities are raised to it: logits stay finite."""


def average_by_patient(
    logits: Float[Tensor, "n k"], truth: Tensor, patients: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "m k"], Tensor, Int[Tensor, "m"]]:
    """Logits, truth and number of each patient.

    Args:
        logits: Of each image.
        truth: (n,) classes, or (n, k) findings. A patient has the most frequent class of its images, the first one if
            several are equally frequent; and each finding that any of its images has.
        patients: Number of each image's patient.
    """
    distinct, owner = patients.unique(return_inverse=True)

    def sums(rows: Tensor) -> Float[Tensor, "m k"]:
        out = torch.zeros(len(distinct), rows.shape[1], dtype=torch.float64)
        return out.index_add_(0, owner, rows.double())

    images = sums(torch.ones(len(owner), 1))
    if truth.dim() == 2:
        mean = (sums(logits.double().sigmoid()) / images).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return mean.logit(), (sums(truth) > 0).to(truth.dtype), distinct
    mean = (sums(logits.double().softmax(1)) / images).clamp_min(MIN_PROBABILITY)
    return mean.log(), sums(one_hot(truth, logits.shape[1])).argmax(1), distinct
